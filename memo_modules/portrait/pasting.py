"""Pastes the frames of a portrait back into the photo that it was cut from."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files.whole_files import new_file
from ..host import SILENT, Host
from ..host_memory import return_freed_memory
from ..types import Audio, Crop
from ..video.files import write_pictures
from ..video.formats import VideoFormat
from ..video.pixel_formats import planes
from .framing import cut, resized, smooth_step
from .pictures import eight_bits, rgb_frames, rgb_picture

FEATHER = 0.1

COLOR_MATCHES = ("off", "border")
"""How frames get the photo's colours. border: mean and spread of each channel become those of the photo along the square's border, where
only the model has changed them. Once for all frames: done frame by frame, they would flicker as the head moves."""

_BORDER = 1 / 8
"""Width of that border, as a share of the square's side."""

_GRID = 64
"""Pixels a side at which colours are compared: finer detail differs for other reasons."""

_LOOKED_AT = 32
"""How many frames, evenly spaced, are compared on behalf of all."""

_FLAT = 0.02
"""Spread below which a border says nothing about contrast."""

_STRIP = 128
"""Rows of a photo, an even number, that are converted at a time."""


def paste(
    photo: Tensor,
    frames: Tensor,
    crop: Crop,
    feather: float = FEATHER,
    color_match: str = "off",
    host: Host = SILENT,
) -> Tensor:
    """The photo, once for each frame, with the frame pasted into it: float32 (f h w 3). Pixels outside of the square do not change.

    Args:
        photo: (1 h w 3) in [0, 1].
        frames: (f n n 3) in [0, 1], square, of any size.
        feather: width of the soft border as a share of the square's side, 0 to 0.5; there is none where the square reaches the edge of
            the photo.
        color_match: see COLOR_MATCHES.
        host: gets the progress in frames.

    Raises:
        InputError: this is not the photo of ``crop``, or the frames are not square.
    """
    photo, frames = _checked(photo, frames, crop)
    rows, columns = crop.inside
    pasted = photo.expand(len(frames), -1, -1, -1).clone()
    for k, region in enumerate(_regions(photo, frames, crop, feather, color_match)):
        host.check_interrupt()
        pasted[k, rows, columns] = region
        host.progress(k + 1, len(frames))
    return pasted


def paste_to_file(
    path: Path,
    photo: Tensor,
    frames: Tensor,
    crop: Crop,
    fps: Fraction,
    format: VideoFormat,
    audio: Audio | None = None,
    metadata: dict[str, str] | None = None,
    feather: float = FEATHER,
    color_match: str = "off",
    host: Host = SILENT,
    labelled: bool = True,
    again: Callable[[], Path] | None = None,
) -> Path:
    """A video file of what ``paste`` gives, of which never more than one frame is in memory. Returns its path.

    yuv420p takes even sizes alone: the last row or column of an odd photo is left out.

    Args:
        path: the file gets this name when it is whole, or where another file has it the next one, see whole_files.new_file.
        photo, frames, crop, feather, color_match: as ``paste`` takes them.
        audio, metadata, labelled: as video.files.join_segments takes them.
        host: gets the progress in frames.
        again: asked for another path, see whole_files.new_file.

    Raises:
        InputError, MissingPackageError: as ``paste`` and ``write_pictures``.
        StorageError: the disk does not take the file.
    """
    photo, frames = _checked(photo, frames, crop)
    if format.pixel_format == "yuv420p":
        width, height = (length // 2 * 2 for length in crop.photo_size)
        photo, crop = photo[:, :height, :width], replace(crop, photo_size=(width, height))
    width, height = crop.photo_size
    pictures = _pictures(photo, _regions(photo, frames, crop, feather, color_match), crop, format.pixel_format)

    def counted() -> Iterator[list[np.ndarray]]:
        for done, picture in enumerate(pictures, start=1):
            host.check_interrupt()
            yield picture
            host.progress(done, len(frames))

    format.check(height, width, audio, host.check_interrupt)

    def write(partial: Path) -> None:
        write_pictures(partial, counted(), (height, width), fps, format, audio, metadata, labelled, host.check_interrupt)

    return new_file(path, write, again)


def mask(crop: Crop, feather: float = FEATHER) -> Tensor:
    """How much of each pixel of the photo comes from the frames: float32 (1 h w) in [0, 1]."""
    width, height = crop.photo_size
    whole = torch.zeros(1, height, width)
    whole[0][crop.inside] = _weight(crop, feather)
    return whole


def _checked(photo: Tensor, frames: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    photo, frames = rgb_picture(photo, "photo").cpu(), rgb_frames(frames).cpu()
    (height, width), (frame_height, frame_width) = photo.shape[1:3], frames.shape[1:3]
    if (width, height) != crop.photo_size:
        raise InputError(
            "photo: expected the picture that was cropped, {} x {} pixels, got {} x {}. Connect the same photo to both nodes.".format(
                *crop.photo_size, width, height
            )
        )
    if frame_width != frame_height:
        raise InputError(f"images: expected square frames, like the crop, got {frame_width} x {frame_height}. Use equal width and height.")
    return photo, frames


def _regions(photo: Tensor, frames: Tensor, crop: Crop, feather: float, color_match: str) -> Iterator[Tensor]:
    """The part of the photo inside the square after pasting, frame by frame: (h w 3)."""
    rows, columns = crop.inside
    under, weight = photo[0, rows, columns], _weight(crop, feather)[..., None]
    in_square = slice(rows.start - crop.top, rows.stop - crop.top), slice(columns.start - crop.left, columns.stop - crop.left)
    correction = _correction(photo, frames, crop) if color_match == "border" else None
    for frame in frames.split(1):
        if frame.shape[1] == crop.side:
            over = frame[0][in_square].clone()
        else:
            over = resized(frame.movedim(-1, 1), crop.side, "bicubic")[0].movedim(0, -1)[in_square]
        if correction:
            gain, offset = correction
            over.mul_(gain).add_(offset)
        yield torch.lerp(under, over.clamp_(0, 1), weight, out=over)


def _weight(crop: Crop, feather: float) -> Tensor:
    """The mask inside of the square, (h w)."""
    width, height = crop.photo_size
    return _rise(crop.top, crop.side, height, feather)[:, None] * _rise(crop.left, crop.side, width, feather)


def _rise(start: int, side: int, length: int, feather: float) -> Tensor:
    """From 0 at the borders of the square to 1, along the part of a side that is in the photo."""
    positions = torch.arange(max(start, 0), min(start + side, length)) + 0.5
    from_border = torch.full_like(positions, inf)
    if start > 0:
        from_border = positions - start
    if start + side < length:
        from_border = torch.minimum(from_border, start + side - positions)
    return smooth_step(from_border / (feather * side)) if feather else torch.ones_like(positions)


def _correction(photo: Tensor, frames: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """Gain and offset (3) that give the frames, taken together, the photo's colours along the border."""
    border = _border(crop)
    expected = cut(photo, crop, _GRID)[0][border]  # (p 3)
    looked_at = torch.linspace(0, len(frames) - 1, min(len(frames), _LOOKED_AT)).round().int().tolist()
    found = torch.stack([resized(frames[k : k + 1].movedim(-1, 1), _GRID, "bilinear")[0].movedim(0, -1)[border] for k in looked_at])
    gain = (expected.std(dim=0) + _FLAT) / (found.std(dim=1).mean(dim=0) + _FLAT)
    return gain, expected.mean(dim=0) - found.mean(dim=(0, 1)) * gain


def _border(crop: Crop) -> Tensor:
    """Which of _GRID x _GRID parts of the square lie along its border and in the photo; all those in the photo if the square extends
    beyond it on every side."""
    steps = (torch.arange(_GRID) + 0.5) / _GRID
    outer = (steps < _BORDER) | (steps > 1 - _BORDER)
    width, height = crop.photo_size
    y, x = crop.top + steps * crop.side, crop.left + steps * crop.side
    inside = ((y > 0) & (y < height))[:, None] & ((x > 0) & (x < width))
    border = inside & (outer[:, None] | outer)
    return border if border.any() else inside


def _pictures(photo: Tensor, regions: Iterator[Tensor], crop: Crop, pixel_format: str) -> Iterator[list[np.ndarray]]:
    """The photo's planes for a video file, with one region after the other in them; always the same arrays."""
    height, width = photo.shape[1:3]
    whole = _planes(photo[0], pixel_format)
    rows, columns = crop.inside
    # chroma belongs to two rows, and to a column and its neighbours on both sides
    top, bottom = rows.start // 2 * 2, min(rows.stop + rows.stop % 2, height)
    left, right = columns.start // 2 * 2, min(columns.stop // 2 * 2 + 2, width)
    before = max(left - 2, 0)
    around = photo[0, top:bottom, before:right].clone()
    for region in regions:
        around[rows.start - top : rows.stop - top, columns.start - before : columns.stop - before] = region
        for plane, part in zip(whole, _planes(around, pixel_format), strict=True):
            down, across = height // len(plane), plane.shape[1] / width
            at = slice(int(left * across), int(right * across))
            plane[top // down : top // down + len(part), at] = part[:, int((left - before) * across) :]
        return_freed_memory()  # before the encoder needs the most
        yield whole


def _planes(picture: Tensor, pixel_format: str) -> list[np.ndarray]:
    """pixel_formats.planes of a picture (h w 3) in [0, 1], strip by strip, since the conversion takes four times the memory."""
    strips = (planes(eight_bits(strip), pixel_format) for strip in picture.split(_STRIP))
    return [np.concatenate(plane) for plane in zip(*strips, strict=True)]
