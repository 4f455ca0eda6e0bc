"""Shows what the documented install commands change in a ComfyUI environment; nothing that was there before may change.

    python3 -m tools.check_requirements [--environment DIR] [--before PACKAGE ...]

It works on a copy of DIR (a virtual environment), or on a new environment with ComfyUI's requirements. Compared are the
versions of all packages and the contents of all files that belong to one, as their RECORD files list them, before and
after `pip install -r requirements.txt` and after `scripts/install_extras.py`; and whether what could be imported still can:
libraries look for others, and fall over one that is there without its own. The exit status is 1 on any change.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import environment
from tools.snapshot import Snapshot, changes, snapshot

PIP_INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
IMPORTS = (
    "from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel",
    "import transformers.audio_utils, transformers.image_utils, transformers.pipelines",
    "from transformers import AutoProcessor, Wav2Vec2FeatureExtractor, Wav2Vec2Model, WhisperModel, WhisperProcessor",
    "from diffusers import AutoencoderKL, DiffusionPipeline, StableAudioPipeline",
    "import torchaudio, torchvision, torchsde, kornia, scipy.signal",
)
"""What ComfyUI and its packs need of packages that look for others."""
RUNTIME_PROVIDERS = "import onnxruntime; print(onnxruntime.get_available_providers())"


def report(title: str, before: Snapshot, after: Snapshot) -> bool:
    """Print what a command did; whether it changed nothing that was there."""
    added = {name: version for name, version in after.versions.items() if name not in before.versions}
    found = changes(before, after)
    print(f"{title}: {len(before.versions)} packages and {len(before.files)} files before, {len(found)} changed, {len(added)} added", flush=True)
    print("  added: " + (", ".join(f"{name} {version}" for name, version in sorted(added.items())) or "nothing"))
    for change in found[:50]:
        print(f"  CHANGED {change}")
    return not found


def check(python: Path) -> bool:
    """Run the documented commands in the environment of ``python``; whether they left all that was there as it was."""
    packages = Path(_output(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    before, providers, works = snapshot(packages), _providers(python), importable(python)
    environment.run_step("pip install -r requirements.txt", python, *PIP_INSTALL, "-r", environment.ROOT / "requirements.txt")
    plain = snapshot(packages)
    kept = report("pip install -r requirements.txt", before, plain)
    environment.run_step("scripts/install_extras.py", python, environment.SCRIPTS / "install_extras.py")
    kept &= report("scripts/install_extras.py", plain, snapshot(packages))
    print(f"onnxruntime's providers: {providers or 'none'} before, {_providers(python)} after")
    broken = works - importable(python)
    print(f"Imports: {len(works)} of {len(IMPORTS)} before, {len(broken)} of them broken")
    for statement in sorted(broken):
        print(f"  BROKEN {statement}")
    return kept and not broken and providers in ("", _providers(python))


def importable(python: Path) -> set[str]:
    """Those of IMPORTS that an environment can do."""
    return {statement for statement in IMPORTS if subprocess.run([python, "-c", statement], check=False, capture_output=True).returncode == 0}


def prepare(folder: Path, original: Path | None, extra: list[str]) -> Path:
    """The interpreter of an environment in ``folder`` as a user may have it before MEMO."""
    python = environment.interpreter(folder)
    if original:
        shutil.copytree(original, folder, symlinks=True)
    else:
        environment.create(folder)
        environment.install(python, environment.find_comfyui(), requirements=())
    if extra:
        environment.run_step("Installing " + ", ".join(extra), python, *PIP_INSTALL, *extra)
    return python


def _providers(python: Path) -> str:
    return _output(python, RUNTIME_PROVIDERS)


def _output(python, code):
    return subprocess.run([python, "-c", code], check=False, capture_output=True, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--environment", type=Path, help="virtual environment of a ComfyUI, copied; by default a new one is made")
    parser.add_argument("--before", nargs="+", default=[], metavar="PACKAGE", help="packages to install first, such as onnxruntime-gpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = prepare(Path(folder, "environment"), arguments.environment, arguments.before)
        kept = check(python)
    print("Nothing that was there has changed." if kept else "The commands changed what was there.")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
