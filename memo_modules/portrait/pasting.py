"""Pastes the frames of a portrait back into the photo that it was cut from."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, isfinite
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, StorageError
from ..files.regular_files import NotRegularError, read_regular
from ..files.whole_files import new_file, whole_file, write_whole
from ..host import SILENT, Host
from ..host_memory import return_freed_memory
from ..types import Audio, Crop
from ..video.files import write_pictures
from ..video.formats import VideoFormat
from ..video.pixel_formats import planes
from ..weights.fingerprints import tensor_digest
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

_MOST_READ = 1 << 12
"""Bytes of a correction that is kept."""

Correction = tuple[Tensor, Tensor]
"""Gain and offset (3) of the channels of all frames."""

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
        photo: (1 h w 3) in [0, 1]; or (f h w 3), one for each frame, such as the same photo in which another person talks.
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
    for k, region in enumerate(_regions(photo, frames, crop, feather, _matched(photo, frames, crop, color_match))):
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
    photo, crop = _even(photo, crop, format)
    width, height = crop.photo_size
    regions = _regions(photo, frames, crop, feather, _matched(photo, frames, crop, color_match))
    pictures = _pictures(photo, regions, crop, format.pixel_format)

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


@dataclass(frozen=True)
class Pasting:
    """How the frames of a long video go into a photo, see paste. Raises InputError when this is not the photo of ``crop``."""

    photo: Tensor
    crop: Crop
    feather: float = FEATHER
    color_match: str = "off"

    def __post_init__(self):
        object.__setattr__(self, "photo", rgb_picture(self.photo, "photo").cpu())
        _check_photo(self.photo, self.crop)

    def for_format(self, format: VideoFormat) -> "Pasting":
        """Without the last row or column of an odd photo where the format takes even sizes alone."""
        photo, crop = _even(self.photo, self.crop, format)
        return replace(self, photo=photo, crop=crop)

    def made_of(self) -> dict[str, str]:
        """What a video depends on, by the names that its user knows."""
        crop = self.crop
        return {
            "photo": tensor_digest(self.photo),
            "crop": f"{crop.left} {crop.top} {crop.side}",
            "feather": str(self.feather),
            "color_match": self.color_match,
        }


class PastedSegments:
    """Writes segments of a long video as write_segment does, with the frames in a photo.

    colours: a file in which the correction that the first segment got is kept for the others, and for those that are made after an
    interruption.
    """

    def __init__(self, pasting: Pasting, format: VideoFormat, colours: Path):
        self._pasting, self._format, self._colours = pasting.for_format(format), format, colours
        self._planes: list[np.ndarray] | None = None
        self._correction: Correction | None = None

    def write(self, path: Path, frames: Tensor, fps: Fraction) -> None:
        """frames: (f 3 n n) in [0, 1], square. Raises as write_segment."""
        pasting, format = self._pasting, self._format
        photo, crop, frames = pasting.photo, pasting.crop, frames.detach().float().cpu().movedim(1, -1)
        if self._planes is None:
            self._planes = _planes(photo[0], format.pixel_format)
        if pasting.color_match == "border" and self._correction is None:
            self._correction = self._kept_correction(frames)
        regions = _regions(photo, frames, crop, pasting.feather, self._correction)
        width, height = crop.photo_size
        with whole_file(path) as partial:
            write_pictures(partial, _pictures(photo, regions, crop, format.pixel_format, self._planes), (height, width), fps, format)

    def _kept_correction(self, frames: Tensor) -> Correction:
        kept = _read_correction(self._colours)
        if kept is None:
            kept = _correction(self._pasting.photo, frames, self._pasting.crop)
            write_whole(self._colours, json.dumps([values.tolist() for values in kept]))
        return kept


def _read_correction(path: Path) -> Correction | None:
    """What _correction gave before; None where it is not there, or damaged. Raises StorageError when the disk does not give it: with
    another correction the rest of the video would have other colours."""
    try:
        gain, offset = json.loads(read_regular(path, _MOST_READ))
        if len(gain) == len(offset) == 3 and all(isfinite(value) for value in (*gain, *offset)):
            return torch.tensor(gain), torch.tensor(offset)
    except (ValueError, TypeError, RecursionError, FileNotFoundError, NotRegularError):
        pass
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}). Nothing is removed: run again when it can.") from error
    return None


def _even(photo: Tensor, crop: Crop, format: VideoFormat) -> tuple[Tensor, Crop]:
    if format.pixel_format != "yuv420p":
        return photo, crop
    width, height = (length // 2 * 2 for length in crop.photo_size)
    return photo[:, :height, :width], replace(crop, photo_size=(width, height))


def _checked(photo: Tensor, frames: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    photo, frames = rgb_frames(photo, "photo").cpu(), rgb_frames(frames).cpu()
    frame_height, frame_width = frames.shape[1:3]
    _check_photo(photo, crop)
    if len(photo) not in (1, len(frames)):
        raise InputError(f"photo: expected one picture, or one for each of {len(frames)} frames, got {len(photo)}.")
    if frame_width != frame_height:
        raise InputError(f"images: expected square frames, like the crop, got {frame_width} x {frame_height}. Use equal width and height.")
    return photo, frames


def _check_photo(photo: Tensor, crop: Crop) -> None:
    height, width = photo.shape[1:3]
    if (width, height) != crop.photo_size:
        raise InputError(
            "photo: expected the picture that was cropped, {} x {} pixels, got {} x {}. Connect the same photo to both nodes.".format(
                *crop.photo_size, width, height
            )
        )


def _regions(photo: Tensor, frames: Tensor, crop: Crop, feather: float, correction: Correction | None) -> Iterator[Tensor]:
    """The part of the photo inside the square after pasting, frame by frame: (h w 3)."""
    rows, columns = crop.inside
    weight = _weight(crop, feather)[..., None]
    in_square = slice(rows.start - crop.top, rows.stop - crop.top), slice(columns.start - crop.left, columns.stop - crop.left)
    for frame, picture in zip(frames.split(1), photo.expand(len(frames), -1, -1, -1), strict=True):
        under = picture[rows, columns]
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


def _matched(photo: Tensor, frames: Tensor, crop: Crop, color_match: str) -> Correction | None:
    return _correction(photo, frames, crop) if color_match == "border" else None


def _correction(photo: Tensor, frames: Tensor, crop: Crop) -> Correction:
    """Gain and offset (3) that give the frames, taken together, the photo's colours along the border."""
    border = _border(crop)
    expected = cut(photo[:1], crop, _GRID)[0][border]  # (p 3)
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


def _pictures(
    photo: Tensor, regions: Iterator[Tensor], crop: Crop, pixel_format: str, whole: list[np.ndarray] | None = None
) -> Iterator[list[np.ndarray]]:
    """The photo's planes for a video file, with one region after the other in them; of one photo always the same arrays. whole: its
    planes, where they are known."""
    height, width = photo.shape[1:3]
    rows, columns = crop.inside
    if len(photo) > 1:
        for under, region in zip(photo, regions, strict=True):
            picture = under.clone()
            picture[rows, columns] = region
            yield _planes(picture, pixel_format)
        return
    whole = whole or _planes(photo[0], pixel_format)
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
