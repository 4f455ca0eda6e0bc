"""The picture that a node shows while it samples: the last clip that is done, playing, and beside it what the running one may become.

ComfyUI sends one picture, saved as PNG or JPEG. Ours saves itself as an animated WebP, which every browser knows by its first bytes:
Nodes 2.0 plays it, and the canvas draws its first frame.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from PIL import Image
from torch import Tensor

SIDE, ALONE = 192, 512
"""Pixels of the longer side, beside another picture and without one."""
RATE = 15
"""Frames per second that are shown at most: all that are sent twice a second have to be encoded."""
_WEBP = {"format": "WEBP", "save_all": True, "loop": 0, "quality": 70, "method": 0}


class Preview:
    """Of one video, from what the sampler tells its host (sampling.sample_video)."""

    def __init__(self):
        self.clip: list[Image.Image] = []
        self.milliseconds = 0
        self.just_done = False

    def clip_done(self, frames: Tensor, fps: Fraction) -> None:
        every = max(1, round(fps / RATE))
        self.clip = [_sized(frame, SIDE) for frame in frames[::every]]
        self.milliseconds = round(1000 * every / fps)
        self.just_done = True

    def picture(self, running: Tensor) -> tuple[str, Image.Image, int | None]:
        """For ComfyUI's progress bar. running: (3 h w) in [0, 1], of the clip that is sampled, or of the one that was just done."""
        if self.just_done:
            self.just_done = False
            return _moving(self.clip, self.milliseconds)
        if not self.clip:
            return "JPEG", _sized(running, None), ALONE  # ComfyUI enlarges it
        return _moving([_beside(frame, running) for frame in self.clip], self.milliseconds)


def _moving(frames: Sequence[Image.Image], milliseconds: int) -> tuple[str, Image.Image, None]:
    return "PNG", _Moving(frames, milliseconds), None


class _Moving(Image.Image):
    """The first of some frames, which saves them all."""

    def __init__(self, frames: Sequence[Image.Image], milliseconds: int):
        super().__init__()
        self.__setstate__(frames[0].__getstate__())
        self.frames, self.milliseconds = frames, milliseconds

    def save(self, fp, format=None, **params) -> None:
        first, *others = self.frames
        first.save(fp, append_images=others, duration=self.milliseconds, **_WEBP)


def _beside(frame: Image.Image, running: Tensor) -> Image.Image:
    both = Image.new("RGB", (2 * frame.width, frame.height))
    both.paste(frame, (0, 0))
    both.paste(_sized(running, None).resize(frame.size, Image.Resampling.BILINEAR), (frame.width, 0))
    return both


def _sized(picture: Tensor, side: int | None) -> Image.Image:
    pixels = Image.fromarray((picture.movedim(0, -1) * 255).round().to(torch.uint8).cpu().numpy())
    if side and max(pixels.size) > side:
        pixels.thumbnail((side, side), Image.Resampling.BILINEAR)
    return pixels
