"""The arithmetic of frames: which frame of one rate shows when in another."""

from fractions import Fraction

import pytest

from memo_modules.clips import CLIP_FRAMES, clip_count, frame_count, resampled_frames

RATES = [Fraction(8), Fraction(24000, 1001), Fraction(25), Fraction(2997, 100), Fraction(30), Fraction(60)]
SAMPLES = [1, 639, 15999, 16000, 16001, 16000 * 7 + 123]


def whole(samples, source_fps, fps):
    source, frames = frame_count(samples, 16000, source_fps), frame_count(samples, 16000, fps)
    return source, frames, resampled_frames(0, source, source, frames, source_fps, fps)


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("source_fps", RATES)
def test_each_frame_shows_the_nearest_and_clips_give_together_what_the_whole_gives(source_fps, fps, samples):
    source, frames, shown = whole(samples, source_fps, fps)
    assert len(shown) == frames
    for j, i in enumerate(shown):
        middle = (j + Fraction(1, 2)) / fps
        distance = abs((i + Fraction(1, 2)) / source_fps - middle)
        assert 0 <= i < source and (distance <= 1 / (2 * source_fps) or i == source - 1)
    for clip_frames in (1, 3, CLIP_FRAMES):
        borders = [(start, min(start + clip_frames, source)) for start in range(0, clip_count(source, clip_frames) * clip_frames, clip_frames)]
        parts = [resampled_frames(start, stop, source, frames, source_fps, fps) for start, stop in borders]
        assert [i for part in parts for i in part] == shown
        # only the last clip's last frame stands in for what comes after it, so each clip needs its own frames alone
        assert all(start <= i < stop for part, (start, stop) in zip(parts, borders, strict=True) for i in part)


def test_the_same_rate_changes_nothing_and_twice_the_rate_shows_each_frame_twice():
    assert whole(16000, Fraction(30), Fraction(30))[2] == list(range(30))
    assert whole(16000, Fraction(30), Fraction(60))[2] == [i // 2 for i in range(60)]
    assert whole(16000, Fraction(60), Fraction(30))[2] == [2 * i + 1 for i in range(30)]
