"""Sheets of what training will see: a picture of each prepared video, cut as training cuts it, over its line's number and its name."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from ..files.whole_files import whole_file
from ..video.reading import read_frames
from ..words import first_line, printable
from .dataset import PreparedVideo, training_pixels

SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""Of the files that a sheet can be, and what Pillow calls their format."""

SIDE, LABEL, GAP = 160, 16, 4
"""Pixels of a picture, of the line of text below it, and between two pictures."""

COLUMNS, ROWS = 12, 40
"""Of a sheet; of more videos there are several."""

_PAPER, _INK, _LACKING = "white", "black", "#a01818"


def draw_sheets(videos: Sequence[PreparedVideo], path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[Path, str]:
    """Write the middle frame of each of ``videos`` to ``path``, in their order; what does not fit to NAME_2 and so on beside it.

    path: its suffix is one of SUFFIXES. progress: called with videos done and all. Returns the videos that cannot be read, of which the sheet
    says so, to the reason.
    """
    failed: dict[Path, str] = {}
    folder = os.path.commonpath([video.video.absolute().parent for video in videos])
    each = ROWS * COLUMNS
    for start in range(0, len(videos), each):
        shown = videos[start : start + each]
        columns = min(COLUMNS, len(shown))
        sheet = Image.new("RGB", ((SIDE + GAP) * columns, (SIDE + LABEL) * -(-len(shown) // columns)), _PAPER)
        draw = ImageDraw.Draw(sheet)
        for k, video in enumerate(shown):
            left, top = k % columns * (SIDE + GAP), k // columns * (SIDE + LABEL)
            try:
                sheet.paste(_training_picture(video), (left, top))
            except Exception as error:  # decoders fail in many ways, and the others are to be seen
                failed[video.video] = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
                draw.text((left + 4, top + SIDE // 2), "cannot be read", fill=_LACKING)
            name = os.path.relpath(video.video.absolute(), folder)
            draw.text((left + 2, top + SIDE + 1), _fitting(draw, f"{start + k + 1}: ", printable(name)), fill=_INK, font=_font())
            progress(start + k + 1, len(videos))
        place = path.with_name(f"{path.stem}_{start // each + 1}{path.suffix}") if start else path
        with whole_file(place) as partial:
            sheet.save(partial, SUFFIXES[path.suffix.lower()], quality=90)
    return failed


def _training_picture(video: PreparedVideo) -> Image.Image:
    [pixels] = read_frames(video.video, [video.frames // 2], lambda picture: training_pixels(picture[None], SIDE, SIDE)[0])
    return Image.fromarray(((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _fitting(draw: ImageDraw.ImageDraw, number: str, name: str) -> str:
    """``number`` and as much of the end of ``name`` as fits below a picture."""
    text, name = number + name, name[-SIDE:]
    while draw.textlength(text, font=_font()) > SIDE:
        name = name[1:]
        text = f"{number}…{name}"
    return text


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LABEL - 5)
