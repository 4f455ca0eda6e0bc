"""PyAV, in whichever version ComfyUI brought it."""

from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from .errors import MissingPackageError


def import_av() -> ModuleType:
    """Raises MissingPackageError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise MissingPackageError(f"Reading and writing sound and video needs PyAV ({error}): pip install av") from error
    return av


def major_version() -> int:
    return int(import_av().__version__.partition(".")[0])


def open_to_read(file: Path | BinaryIO, **options):
    """A container to read from, whatever encoding its tags are in; it raises what PyAV raises."""
    if major_version() < 19:  # from then on no tag is an error, and there is nothing to choose
        options["metadata_errors"] = "replace"
    return import_av().open(str(file) if isinstance(file, Path) else file, **options)


def audio_resampler(**options):
    """An AudioResampler without threads. A process forked from this one, as data workers are, would find it without them when
    it collects garbage, and wait for them for ever. Before PyAV 19 they end with the conversion."""
    if major_version() >= 19:
        options["threads"] = 1
    return import_av().AudioResampler(**options)


def upright(picture: np.ndarray, frame) -> np.ndarray:
    """``picture`` (h w c) of ``frame`` turned as its file says that it is to be shown: a phone that is held upright films pictures
    that lie on their side."""
    return np.ascontiguousarray(np.rot90(picture, quarter_turns(frame)))


def quarter_turns(frame) -> int:
    """Counterclockwise, to show a frame as its file says."""
    return round(getattr(frame, "rotation", 0) / 90)  # PyAV before 14 does not tell


def fraction(rate) -> Fraction:
    """A frame rate of a stream, 0 where it has none. From PyAV 19 on it is a number of PyAV's own, which is no Fraction."""
    return Fraction(rate.numerator, rate.denominator) if rate else Fraction(0)
