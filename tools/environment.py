"""Makes the project's own environment, `.venv` in its root, and finds the ComfyUI that it serves.

It needs nothing but Python: `python3 -m tools.environment` prints the environment's interpreter.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}. Run the script with one of those.")

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"
INSTALL_EXTRAS = ROOT / "scripts" / "install_extras.py"
VENV = ROOT / ".venv"
CONSTRAINTS = TOOLS / "constraints.txt"
REQUIREMENTS = (ROOT / "requirements.txt", TOOLS / "requirements-test.txt")
HOME_COMFYUI = Path("~/comfy/ComfyUI")


def find_comfyui() -> Path | None:
    """ComfyUI's folder: COMFYUI_PATH, the one whose custom_nodes hold the project, or ~/comfy/ComfyUI."""
    if named := os.environ.get("COMFYUI_PATH"):
        if not _is_comfyui(Path(named)):
            sys.exit(f"COMFYUI_PATH is {named!r}, and there is no ComfyUI (no main.py). Set it to ComfyUI's folder, or unset it.")
        return Path(named).resolve()
    around = [ROOT.parents[1]] if ROOT.parent.name == "custom_nodes" else []
    return next((folder for folder in (*around, HOME_COMFYUI.expanduser()) if _is_comfyui(folder)), None)


def ensure(comfyui: Path | None) -> Path:
    """The interpreter of an environment that runs the project, and ``comfyui`` where one is given; made if need be."""
    python = interpreter(VENV)
    stamp = VENV / "complete"
    wanted = fingerprint(comfyui)
    if stamp.is_file() and python.exists():
        if stamp.read_text(encoding="utf-8") == wanted:
            return python
    elif VENV.exists():
        _step("Removing a half-made .venv", lambda: shutil.rmtree(VENV))
    stamp.unlink(missing_ok=True)
    print(f"Making the environment {VENV} (once)", flush=True)
    create(VENV)
    install(python, comfyui)
    run_step("Installing face analysis and vocal separation", python, INSTALL_EXTRAS)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def variables(comfyui: Path | None) -> dict[str, str]:
    """The environment variables of a program that runs in the environment: the ComfyUI found is named in them."""
    # Compiled files are kept, and within .venv: many programs start here, and each would compile torch anew.
    mine = {"PYTHONPYCACHEPREFIX": str(VENV / "pycache")} | ({"COMFYUI_PATH": str(comfyui)} if comfyui else {})
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | mine


def create(folder: Path) -> None:
    """A virtual environment with pip in it."""
    if find_spec("ensurepip") is None:
        sys.exit("This Python cannot make virtual environments (ensurepip is missing). On Debian and Ubuntu: apt install python3-venv.")
    run_step("Creating it", sys.executable, "-m", "venv", folder)


def install(python: Path, comfyui: Path | None, requirements: tuple[Path, ...] = REQUIREMENTS) -> None:
    """Put CPU torch, ComfyUI's packages and ``requirements`` into an environment."""
    run_step("Installing torch", *_pip(python), "torch")
    # Each asks for a CUDA build of torch or none at all, as its own build has it.
    run_step("Installing torchvision and torchaudio", *_pip(python), "--no-deps", "torchvision", "torchaudio")
    of_comfyui = [comfyui / "requirements.txt"] if comfyui else []
    files = [part for file in (*of_comfyui, *requirements) for part in ("--requirement", file)]
    run_step("Installing " + ("ComfyUI's and the project's packages" if comfyui else "the project's packages"), *_pip(python), *files)
    if subprocess.run([python, "-c", "import torchvision, torchaudio"], check=False, capture_output=True).returncode:
        run_step("Fitting torchvision and torchaudio to this torch", python, TOOLS / "cpu_wheels.py")


def interpreter(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def run_step(title: str, *command: str | Path) -> None:
    """Run a command and show one line of progress; if it fails, its output is shown and ends the script."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    result = _step(title, lambda: subprocess.run(command, check=False, **pipes))
    if result.returncode:
        sys.exit(f"{title} failed:\n{result.stdout[-4000:]}")


def _step(title, work):
    print(f"  {title} ...", end="", flush=True)
    start = time.monotonic()
    result = work()
    print(f" {time.monotonic() - start:.0f} s", flush=True)
    return result


def _pip(python: Path) -> list[str | Path]:
    return [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--constraint", CONSTRAINTS]


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def fingerprint(comfyui: Path | None) -> str:
    """Changes with everything that decides what the environment holds."""
    inputs = [Path(__file__), INSTALL_EXTRAS, TOOLS / "cpu_wheels.py", CONSTRAINTS, *REQUIREMENTS]
    if comfyui:
        inputs.append(comfyui / "requirements.txt")
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in inputs)).hexdigest()


if __name__ == "__main__":
    print(ensure(find_comfyui()))
