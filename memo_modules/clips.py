"""Integer arithmetic of frames, clips and padding; no tensors.

Frame rates are exact fractions, so that no length of audio ever gains or loses a frame by rounding.
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from numbers import Real

from .errors import InputError

CLIP_FRAMES = 16
"""Frames the diffusion net makes at a time."""

FPS = Fraction(30)
"""Frames per second of the videos that MEMO was trained on."""

SLOWEST, FASTEST = 1, 240
"""Frames per second of anything that is a video."""


def frame_rate(fps: float | Fraction) -> Fraction:
    """The exact rate meant by ``fps`` frames per second: 23.976023976 becomes 24000/1001, 29.97 becomes 2997/100.

    Raises InputError when ``fps`` is not a number from 1 to 240.
    """
    if not isinstance(fps, Real) or not SLOWEST <= fps <= FASTEST:
        raise InputError(f"fps: expected a number of frames per second from {SLOWEST} to {FASTEST}, got {fps!r}.")
    return Fraction(fps).limit_denominator(1001)


def other_rates(rates: Sequence[Fraction | None]) -> str:
    """A sentence on those of videos to learn from that are not at MEMO's rate; nothing where all are, or nothing is known. 29.97 is at the
    same pace."""
    others = Counter(rate for rate in rates if rate and abs(rate - FPS) > Fraction(1, 10))
    found = ", ".join(f"{videos} at {float(rate):.4g}" for rate, videos in sorted(others.items()))
    return f"{others.total()} of {len(rates)} videos are not at MEMO's {FPS} frames per second ({found})." if others else ""


def frame_count(samples: int, sample_rate: int, fps: Fraction) -> int:
    """Frames that cover ``samples`` of audio: the last one may be partly covered, none is empty."""
    return ceil_div(samples * fps.numerator, sample_rate * fps.denominator)


def clip_count(frames: int, clip_frames: int = CLIP_FRAMES) -> int:
    """Clips of ``clip_frames`` that hold ``frames``."""
    return ceil_div(frames, clip_frames)


def samples_for_frames(frames: int, sample_rate: int, fps: Fraction) -> int:
    """Samples that last at least as long as ``frames``."""
    return ceil_div(frames * sample_rate * fps.denominator, fps.numerator)


def resampled_frames(start: int, stop: int, source_frames: int, frames: int, source_fps: Fraction, fps: Fraction) -> list[int]:
    """The frames of a video at ``fps`` that fall to the frames start..stop-1 of one at ``source_fps``, in order: each as the
    index of the source frame that shows at its middle, which is the nearest in time.

    source_frames: of the whole source; its last one stands in for what comes after it. frames: of the whole result,
    ``frame_count`` of the audio at ``fps``. Clips that follow one another give together what the whole source gives.
    """
    # Frame j's middle (2j + 1) / (2 fps) lies in source frame ⌊(2j + 1) · step / base⌋.
    step = source_fps.numerator * fps.denominator
    base = 2 * fps.numerator * source_fps.denominator

    def first_shown_from(source: int) -> int:
        return min(frames, max(0, ceil_div(source * base - step, 2 * step)))

    end = frames if stop >= source_frames else first_shown_from(stop)
    return [min((2 * j + 1) * step // base, source_frames - 1) for j in range(first_shown_from(start), end)]


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
