"""Installs what faces and vocals need, without changing anything that is installed.

Run it with the Python that runs ComfyUI: python scripts/install_extras.py

pip alone would do harm here: insightface and audio-separator ask for the CPU onnxruntime, for opencv-python and for two
builds of onnx, whatever fills their place already, and a second onnxruntime or OpenCV overwrites the first.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from packaging.version import InvalidVersion, Version

from bootstrap import ROOT
from memo_modules.errors import MemoError
from scripts.entry import run

# Importable module: the package that brings it. The first are installed alone, since requirements.txt holds what
# MEMO's use of them imports.
ALONE = {
    "insightface": "insightface>=1.0",
    "audio_separator": "audio-separator>=0.47",
    "librosa": "librosa>=0.10",
    "onnx2torch": "onnx2torch-py313>=1.6",
}
# Any build will do, onnxruntime-gpu and opencv-contrib-python among them.
ANY_BUILD = {"onnx": "onnx", "onnxruntime": "onnxruntime", "cv2": "opencv-python-headless"}


def missing(packages: dict[str, str]) -> list[str]:
    """The packages whose module is not installed, whichever package it would come from."""
    return [package for module, package in packages.items() if importlib.util.find_spec(module) is None]


def installer() -> list[str]:
    """The command that installs into this environment: pip, or uv, whose environments have no pip.

    Raises MemoError where there is neither.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    pip = f'"{sys.executable}" -m ensurepip' if importlib.util.find_spec("ensurepip") else "install your system's python3-venv and python3-pip"
    raise MemoError(f"this Python has no pip, and uv is not on the PATH. Put uv there, or get pip: {pip}. Then start this again.")


def pip_install(*arguments: str) -> None:
    if returncode := subprocess.run([*installer(), *arguments], check=False).returncode:
        sys.exit(returncode)


def installed() -> list[str]:
    """Every installed package as pip takes a constraint. One name may be there several times, as what pip left of an update
    that was cut off, or below another folder of sys.path: what counts is the one that is imported."""
    lines = []
    for name in sorted({package.name for package in metadata.distributions() if package.name}):
        try:
            lines.append(f"{name}=={Version(metadata.version(name))}")
        except (metadata.PackageNotFoundError, InvalidVersion):  # the system's own have versions that pip does not read
            continue
    return lines


def main() -> None:
    # Every installed version is a constraint: where the new packages cannot fit, pip refuses instead of changing one.
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "installed.txt")
        constraints.write_text("\n".join(installed()), encoding="utf-8")
        any_build = missing(ANY_BUILD)
        pip_install("--constraint", str(constraints), "--requirement", str(ROOT / "requirements.txt"), *any_build)
    alone = missing(ALONE)
    if alone:
        pip_install("--no-deps", *alone)
    print("Installed: " + ", ".join(any_build + alone) if any_build + alone else "Everything is there.")


if __name__ == "__main__":
    run("install_extras.py", main, "stopped. Start it again to install the rest.")
