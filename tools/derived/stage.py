"""A base directory of ComfyUI in which the workflow files run as they are, and show something: the small model under the published
names, cartoons as portraits, the voice of one of them."""

import shutil
import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from tools.comfyui_server import ROOT
from tools.evaluation.variants import Case
from tools.tiny_picture_models import write_tiny_interpolator, write_tiny_upscaler

ASSETS = ROOT / "assets"
MODELS = {
    "memo/small": "memo/memo",
    "memo/small/vae": "vae/sd-vae-ft-mse",
    "memo/emotion2vec_small": "memo/emotion2vec_plus_large",
    "audio_encoders/wav2vec2-small": "audio_encoders/wav2vec2-base-960h",
}
"""Folders of the small model to those of the published one."""
NAMED = (
    "upscale_models/RealESRGAN_x2plus.pth",
    "facerestore_models/codeformer.pth",
    "frame_interpolation/film_net_fp16.safetensors",
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
)
"""Other people's models that workflows name: where an empty file has the name, the front end says of none that it is missing."""
FOLDER = "portraits"
"""Of input, that folder_of_portraits names."""
PORTRAITS = {
    "portrait.jpg": (95_001,),
    "portrait_2.jpg": (95_016,),
    "portrait_3.jpg": (95_020,),
    "portrait_4.jpg": (95_015,),
    "two_people.jpg": (95_001, 95_015),
}
"""Pictures to the characters in them."""
PHOTOS = {
    "crop_and_paste_back": "two_people.jpg",
    "two_speakers_one_photo": "two_people.jpg",
    "emotion_timeline": "portrait_2.jpg",
    "long_video_to_file": "portrait_3.jpg",
    "low_memory": "portrait_4.jpg",
    "music_with_vocal_separation": "portrait_2.jpg",
    "upscale": "portrait_4.jpg",
}
"""Workflows to a picture other than the one they name: to show what they are for, and that any will do."""
SIDE = 512
"""Pixels of a portrait; two stand side by side."""
_FEW = {"steps": 8, "guidance_scale": 1.0}
WIDGETS = {
    "MemoLoadAll": {"vae": "sd-vae-ft-mse"},
    "MemoLoadVAE": {"vae": "sd-vae-ft-mse"},
    "MemoCropPortrait": {"size": 128},
    "MemoEmotionTimeline": {"timeline": "0-0.5 neutral, 0.5-1.1 happy, 1.1- angry"},
    "MemoSampler": {"width": 128, "height": 128, **_FEW},
    "MemoSampleToFile": {"width": 128, "height": 128, **_FEW},
    "MemoTalkingPortrait": {"resolution": 128, **_FEW},
}
"""What the small model wants otherwise."""


@contextmanager
def base(packs: Path | None = None, seconds: float = 1.6) -> Iterator[Path]:
    """The folder, for a while. packs: those of other people, each in a folder of its own. seconds: of the voice."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), packs, seconds)
        yield Path(folder)


def _write(base: Path, packs: Path | None, seconds: float) -> None:
    for small, published in MODELS.items():
        shutil.copytree(ASSETS / "models" / small, base / "models" / published, dirs_exist_ok=True)
    for named in NAMED:
        (base / "models" / named).parent.mkdir(exist_ok=True)
        (base / "models" / named).touch()
    write_tiny_upscaler(base / "models" / "upscale_models" / "RealESRGAN_x2plus.pth", strength=0)
    write_tiny_interpolator(base / "models" / "frame_interpolation" / "film_net_fp16.safetensors", strength=0)
    (base / "input" / FOLDER).mkdir(parents=True)
    for name, who in PORTRAITS.items():
        _picture(who).save(base / "input" / name, quality=95)
    _write_voice(base / "input" / "speech.wav", seconds)
    _picture(PORTRAITS["portrait.jpg"]).save(base / "input" / FOLDER / "anna.jpg", quality=95)
    (base / "input" / FOLDER / "anna.txt").write_text("anna", encoding="utf-8")
    if packs:
        shutil.copytree(packs, base / "custom_nodes", ignore=shutil.ignore_patterns(".git"))


def _picture(who: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.hstack([Case(identity, identity, "neutral", 1).portrait(SIDE) for identity in who]))


def _write_voice(file: Path, seconds: float) -> None:
    """The beginning of the cartoon's voice."""
    with wave.open(str(ASSETS / "cartoon.wav")) as whole, wave.open(str(file), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(round(seconds * whole.getframerate())))
