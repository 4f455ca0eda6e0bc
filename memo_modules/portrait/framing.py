"""The square around a face: where it lies in a photo, and the portrait that is cut out of it."""

from math import ceil, floor

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..host import SILENT, Host
from ..types import Crop, Face
from ..vae import MULTIPLE
from .face import Detection, FaceAnalyzer, chosen_face, described_face
from .pictures import SMALLEST, eight_bits, rgb_picture

CROP_MULTIPLE = 64
"""A portrait's side is best a multiple of this many pixels, which the deepest level of the nets sees as one."""

MARGIN = 0.4
"""With it a face's box takes 0.56 of the square's height; in MEMO's published samples it takes 0.5 to 0.65."""

_HEADROOM = 0.25
"""Share of the margin that moves from below the face to above it, for the hair: faces in the published samples also sit below the middle."""

_FRAMED = 0.19
"""Share of a square picture's side that a face takes at least in a portrait; with less it is a photo. No portrait that crop_portrait makes, with
a margin of up to 2, has less: its frames have to fit back."""

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
    longer = _longer(box)
    half = longer * (0.5 + margin)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2 - _HEADROOM * margin * longer
    left, top = floor(x - half), floor(y - half)
    return Crop(left, top, max(ceil(x + half) - left, ceil(y + half) - top), photo_size)


def inner_square(box: tuple[float, float, float, float], photo_size: tuple[int, int]) -> Crop:
    """``face_square``, smaller and moved such that it lies inside of the photo, where that has room for the whole face so."""
    square, (x1, y1, x2, y2) = face_square(box, photo_size), box
    side = min(square.side, *photo_size)
    if side < _longer(box):
        return square
    places = []
    for start, first, last, length in zip((square.left, square.top), (x1, y1), (x2, y2), photo_size, strict=True):
        holding = min(max(start + (square.side - side) // 2, ceil(last) - side), floor(first))
        places.append(min(max(holding, 0), length - side))
    left, top = places
    return Crop(left, top, side, photo_size)


def framed_portrait(
    analyzer: FaceAnalyzer, photo: Tensor, size: int, crop: bool = True, allow_no_face: bool = False, index: int = 0, host: Host = SILENT
) -> tuple[Tensor, Face]:
    """The portrait in a photo, and whose face it is.

    photo: float (1 h w 3), RGB in [0, 1]. size: of the portrait, pixels. crop: cut out the square around the face, inside of the photo
    where that has room for it; a square picture of which the face takes a fifth stays as it is, and without a face the square in the
    middle is cut out. Without ``crop`` the photo itself is returned. allow_no_face, index: see embed_face.

    Raises InputError where there is no face, and when rgb_picture refuses the photo.
    """
    photo = rgb_picture(photo).cpu()
    pixels = eight_bits(photo[0])
    face = described_face(analyzer, pixels, analyzer.find(pixels, host), index, allow_no_face, host)
    height, width = pixels.shape[:2]
    if not crop or width == height and (face.box is None or _longer(face.box) >= _FRAMED * width):
        return photo, face
    if face.box is not None:
        return cut(photo, inner_square(face.box, (width, height)), size), face
    side = min(width, height)
    return cut(photo, Crop((width - side) // 2, (height - side) // 2, side, (width, height)), size), face


def crop_portrait(
    analyzer: FaceAnalyzer,
    photo: Tensor,
    index: int = 0,
    margin: float = MARGIN,
    size: int = 512,
    box: tuple[float, float, float, float] | None = None,
    host: Host = SILENT,
) -> tuple[Tensor, Crop, Tensor]:
    """Find a face in a photo and cut out the square around it.

    photo: float (h w 3), RGB in [0, 1]. index: which face, 0 the largest, as in embed_face. margin: see face_square. size: of
    the portrait, a multiple of 8. box: x1 y1 x2 y2, where the face is, of what the detector does not know. ``host`` is told of a face that is
    not upright. Returns the portrait (1 size size 3), where it lies, and a small picture (1 h w 3) of the photo with the square and the faces
    drawn into it. Raises InputError if the photo has no such face, or rgb_picture refuses it.
    """
    if size < SMALLEST or size % MULTIPLE:
        raise InputError(f"size: expected a multiple of {MULTIPLE} of at least {SMALLEST}, got {size}.")
    photo = rgb_picture(photo[None]).cpu()
    pixels = eight_bits(photo[0])
    photo_size = pixels.shape[1], pixels.shape[0]
    if box is None:
        faces = analyzer.find(pixels, host)
        chosen_face(analyzer, pixels, faces, index, "say with box_x, box_y and box_size where it is", host)
    else:
        _check_box(box, photo_size)
        faces, index = [Detection(box, 1.0, np.zeros((5, 2)))], 0
    crop = face_square(faces[index].box, photo_size, margin)
    return cut(photo, crop, size), crop, _drawn(pixels, crop, faces, index)


def _check_box(box: tuple[float, float, float, float], photo_size: tuple[int, int]) -> None:
    for name, start, end, length in zip(("box_x", "box_y"), box[:2], box[2:], photo_size, strict=True):
        if not 0 <= start < length:
            raise InputError(f"{name}: expected 0 to {length - 1}, since the photo has {photo_size[0]} x {photo_size[1]} pixels, got {start:g}.")
        if end > length:
            raise InputError(
                f"box_size: expected a box inside of the photo of {photo_size[0]} x {photo_size[1]} pixels, got one that ends at {end:g} "
                f"of {length}. Choose a smaller one."
            )


def _longer(box: tuple[float, float, float, float]) -> float:
    return max(box[2] - box[0], box[3] - box[1])


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
