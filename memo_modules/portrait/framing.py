"""The square around a face: where it lies in a photo, and the portrait that is cut out of it."""

from math import ceil, floor

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..types import Crop
from .face import Detection, FaceAnalyzer, check_faces
from .pictures import eight_bits, rgb_picture

CROP_MULTIPLE = 64
"""A portrait's side is a multiple of this many pixels, which the deepest level of the nets sees as one."""

MARGIN = 0.4
"""With it a face's box takes 0.56 of the square's height; in MEMO's published samples it takes 0.5 to 0.65."""

_HEADROOM = 0.25
"""Share of the margin that moves from below the face to above it, for the hair: faces in the published samples also sit below the middle."""

_BLURS = ((24, 0.0, 0.04), (8, 0.0, 0.15))
"""Outside of the photo: to how many pixels a side each blur reduces it, and how far outside it begins and is full, as shares of the side."""

_PREVIEW = 1024
_SQUARE_COLOUR, _FACE_COLOUR, _OTHER_COLOUR = (255, 196, 0), (0, 200, 255), (160, 160, 160)


def face_square(box: tuple[float, float, float, float], photo_size: tuple[int, int], margin: float = MARGIN) -> Crop:
    """The square that holds the whole face ``box`` (x1 y1 x2 y2, pixels of the photo).

    photo_size: (width, height). margin: room on each side of the box, as a share of its longer side; a quarter more above it and a
    quarter less below. The square may extend beyond the photo.
    """
    x1, y1, x2, y2 = box
    longer = max(x2 - x1, y2 - y1)
    half = longer * (0.5 + margin)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2 - _HEADROOM * margin * longer
    left, top = floor(x - half), floor(y - half)
    return Crop(left, top, max(ceil(x + half) - left, ceil(y + half) - top), photo_size)


def crop_portrait(analyzer: FaceAnalyzer, photo: Tensor, index: int = 0, margin: float = MARGIN, size: int = 512) -> tuple[Tensor, Crop, Tensor]:
    """Find a face in a photo and cut out the square around it.

    photo: float (h w 3), RGB in [0, 1]. index: which face, 0 the largest, as in embed_face. margin: see face_square. size: of
    the portrait, a multiple of 64. Returns the portrait (1 size size 3), where it lies, and a small picture (1 h w 3) of the photo
    with the square and the faces drawn into it. Raises InputError if the photo has no such face, or rgb_picture refuses it.
    """
    if size < CROP_MULTIPLE or size % CROP_MULTIPLE:
        raise InputError(f"size: expected a multiple of {CROP_MULTIPLE}, got {size}.")
    photo = rgb_picture(photo[None]).cpu()
    pixels = eight_bits(photo[0])
    faces = analyzer.detect(pixels)
    check_faces(faces, index, pixels)
    crop = face_square(faces[index].box, (pixels.shape[1], pixels.shape[0]), margin)
    return cut(photo, crop, size), crop, _drawn(pixels, crop, faces, index)


def cut(photo: Tensor, crop: Crop, size: int) -> Tensor:
    """The square of a photo (1 h w 3) as a picture (1 size size 3).

    Outside of the photo its edge is repeated, more blurred with the distance. A mirror image would show MEMO a second face.
    """
    height, width = photo.shape[1:3]
    rows, columns = _nearest(crop.top, crop.side, height), _nearest(crop.left, crop.side, width)
    square = photo[:, rows][:, :, columns].movedim(-1, 1)
    if size != crop.side:
        square = resized(square, size, "bilinear")
    beyond = torch.maximum(_beyond(crop.top, crop.side, height, size)[:, None], _beyond(crop.left, crop.side, width, size))
    if beyond.any():
        for left, start, full in _BLURS:
            blurred = resized(resized(square, left, "bilinear"), size, "bicubic").clamp(0, 1)
            square = torch.lerp(square, blurred, smooth_step((beyond / crop.side - start) / (full - start)).to(square))
    return square.movedim(1, -1)


def resized(pictures: Tensor, size: int, mode: str) -> Tensor:
    """Pictures (n c h w) as (n c size size)."""
    return F.interpolate(pictures, size=(size, size), mode=mode, antialias=True)


def smooth_step(x: Tensor) -> Tensor:
    """From 0 at 0 and below to 1 at 1 and above, with a slope of 0 at both."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _nearest(start: int, side: int, length: int) -> slice | Tensor:
    """The pixels of ``length`` that are nearest to start..start+side-1."""
    if start >= 0 and start + side <= length:
        return slice(start, start + side)
    return torch.arange(start, start + side).clamp(0, length - 1)


def _beyond(start: int, side: int, length: int, size: int) -> Tensor:
    """How far each of ``size`` pixels of the square's side lies outside of the photo, in pixels of the photo."""
    positions = start + (torch.arange(size) + 0.5) * (side / size)
    return torch.maximum(-positions, positions - length).clamp(min=0)


def _drawn(pixels: np.ndarray, crop: Crop, faces: list[Detection], index: int) -> Tensor:
    """The photo, reduced, on a background that holds the whole square, with the square and the numbered faces."""
    (width, height), side = crop.photo_size, crop.side
    left, top = min(crop.left, 0), min(crop.top, 0)
    right, bottom = max(crop.left + side, width), max(crop.top + side, height)
    scale = min(1.0, _PREVIEW / max(right - left, bottom - top))
    picture = Image.new("RGB", (round((right - left) * scale), round((bottom - top) * scale)), (48, 48, 48))
    small = Image.fromarray(pixels).resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR, reducing_gap=2.0)
    picture.paste(small, (round(-left * scale), round(-top * scale)))
    draw, line = ImageDraw.Draw(picture), max(2, max(picture.size) // 256)

    def outline(box: tuple[float, float, float, float], colour: tuple[int, int, int]) -> tuple[int, int]:
        x1, y1, x2, y2 = (round((value - origin) * scale) for value, origin in zip(box, (left, top, left, top), strict=True))
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        return x1 + 2 * line, y1 + line

    for number, face in enumerate(faces):
        colour = _FACE_COLOUR if number == index else _OTHER_COLOUR
        draw.text(outline(face.box, colour), str(number), fill=colour, font_size=8 * line)
    outline((crop.left, crop.top, crop.left + side, crop.top + side), _SQUARE_COLOUR)
    return torch.from_numpy(np.array(picture))[None] / 255
