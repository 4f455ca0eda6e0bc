"""How far a video is, in words, and what it has become, in one picture."""

import math
from fractions import Fraction

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .clips import clip_count
from .words import hours

TILES, SIDE = 25, 640
"""Pictures on a contact sheet at most, and the longer side of it in pixels at most; as PNG it stays near 1 MB at worst."""


def clips_done(clips: int, done: int, before: int, seconds: float) -> str:
    """Which clip of how many is done and, from the second one of this run on, how long the others take.

    seconds: since the first ``before`` clips were done, which an earlier run had made.
    """
    text = f"Clip {done} of {clips}"
    if done - before < 2 or done == clips:  # the first one's time is that of loading, too
        return text
    return f"{text}, {hours(seconds / (done - before) * (clips - done))} left"


def video_done(frames: int, fps: Fraction) -> str:
    """What is said last: how long the video is."""
    return f"Done: {counted(frames, 'frame')}, {clock(frames / fps)}"


def contact_sheet(images: Tensor, clip_frames: int, fps: Fraction) -> Image.Image:
    """The first frame of each clip, or of clips evenly spaced from the first to the last where there are more than fit, with
    its time in the video.

    images: (f h w 3) in [0, 1], one or more. ``clip_frames``: frames of a clip.
    """
    frames, height, width, _ = images.shape
    clips = clip_count(frames, clip_frames)
    tiles = min(clips, TILES)
    columns = math.ceil(math.sqrt(tiles))
    rows = math.ceil(tiles / columns)
    scale = min(SIDE / (columns * width), SIDE / (rows * height), 1)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    sheet = Image.new("RGB", (columns * size[0], rows * size[1]))
    draw = ImageDraw.Draw(sheet)
    for tile in range(tiles):
        frame = clip_frames * (round(tile * (clips - 1) / (tiles - 1)) if tile else 0)
        pixels = (images[frame] * 255).round().to(torch.uint8).cpu().numpy()
        left, top = tile % columns * size[0], tile // columns * size[1]
        sheet.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), (left, top))
        if size[0] >= 48:
            _write(draw, (left + 3, top + 2), clock(frame / fps))
    return sheet


def counted(number: int, noun: str) -> str:
    """1 clip, 2 clips."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def clock(seconds: Fraction) -> str:
    """Minutes, seconds and tenths."""
    tenths = int(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    left, top, right, bottom = draw.textbbox(place, text)
    draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=(0, 0, 0))
    draw.text(place, text, fill=(255, 255, 255))
