"""Jobs of rendering on the tiny checkpoint, as small as they come."""

import shutil
from pathlib import Path

from PIL import Image

from memo_modules.rendering.jobs import Job
from tests.helpers.graphs import PORTRAIT, write_wav

_SMALL = {"width": 64, "height": 64, "steps": 1, "guidance_scale": 1.0, "emotion": "happy", "separate": False}


def write_inputs(folder: Path) -> Path:
    """A portrait, a picture without a face, voices of one clip and of three, and a file that is no sound; in a new folder, which is returned."""
    folder.mkdir()
    shutil.copy(PORTRAIT, folder / "me.jpg")
    write_wav(folder / "short.wav", 4000, 16000)
    write_wav(folder / "long.wav", 20000, 16000)
    (folder / "bad.wav").write_bytes(b"no sound")
    Image.new("RGB", (80, 80)).save(folder / "nobody.png")
    return folder


def job(inputs: Path, output: str, audio: str = "short.wav", image: str = "me.jpg", **settings) -> Job:
    """A job with files of ``write_inputs``."""
    return Job(inputs / image, inputs / audio, output, **_SMALL | settings)
