"""PyAV, in whichever version ComfyUI brought it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

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


@contextmanager
def open_to_read(file: Path | BinaryIO, **options) -> Iterator:
    """A container to read from, whatever encoding its name and its tags are in; it raises what PyAV raises."""
    if major_version() < 19:  # from then on no tag is an error, and there is nothing to choose
        options["metadata_errors"] = "replace"
    place = nullcontext(file)
    if isinstance(file, Path):
        name = str(file)
        place = nullcontext(name) if name.isprintable() else file.open("rb")  # ffmpeg takes names in UTF-8 alone
    with place as source, import_av().open(source, **options) as container:
        yield container


def audio_resampler(**options):
    """An AudioResampler without threads. A process forked from this one, as data workers are, would find it without them when
    it collects garbage, and wait for them for ever. Before PyAV 19 they end with the conversion."""
    if major_version() >= 19:
        options["threads"] = 1
    return import_av().AudioResampler(**options)


def fraction(rate) -> Fraction:
    """A frame rate of a stream, 0 where it has none. From PyAV 19 on it is a number of PyAV's own, which is no Fraction."""
    return Fraction(rate.numerator, rate.denominator) if rate else Fraction(0)
