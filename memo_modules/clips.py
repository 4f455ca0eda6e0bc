"""Integer arithmetic of frames, clips and padding; no tensors.

Frame rates are exact fractions, so that no length of audio ever gains or loses a frame by rounding.
"""

from fractions import Fraction
from numbers import Real

from .errors import InputError

CLIP_FRAMES = 16
"""Frames the diffusion net makes at a time."""

SLOWEST, FASTEST = 1, 240
"""Frames per second of anything that is a video."""


def frame_rate(fps: float | Fraction) -> Fraction:
    """The exact rate meant by ``fps`` frames per second: 23.976023976 becomes 24000/1001, 29.97 becomes 2997/100.

    Raises InputError when ``fps`` is not a number from 1 to 240.
    """
    if not isinstance(fps, Real) or not SLOWEST <= fps <= FASTEST:
        raise InputError(f"fps: expected a number of frames per second from {SLOWEST} to {FASTEST}, got {fps!r}.")
    return Fraction(fps).limit_denominator(1001)


def frame_count(samples: int, sample_rate: int, fps: Fraction) -> int:
    """Frames that cover ``samples`` of audio: the last one may be partly covered, none is empty."""
    return ceil_div(samples * fps.numerator, sample_rate * fps.denominator)


def clip_count(frames: int, clip_frames: int = CLIP_FRAMES) -> int:
    """Clips of ``clip_frames`` that hold ``frames``."""
    return ceil_div(frames, clip_frames)


def samples_for_frames(frames: int, sample_rate: int, fps: Fraction) -> int:
    """Samples that last at least as long as ``frames``."""
    return ceil_div(frames * sample_rate * fps.denominator, fps.numerator)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
