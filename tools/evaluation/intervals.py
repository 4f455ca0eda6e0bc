"""How sure the figures are: 95 % intervals over resampled videos (bootstrap), and differences between variants over the same videos.

Few videos say little: two figures are different only where the interval of their difference does not hold 0, and fewer than FEWEST have none.
"""

from collections.abc import Sequence

import numpy as np

from memo_modules.clips import CLIP_FRAMES
from tools.evaluation.figures import SETTLED, blinks, drift_of, lag_correlations
from tools.evaluation.readings import Reading, borders
from tools.small_world import FPS, MOODS

RESAMPLES = 2000

FEWEST = 4
"""Videos that have an interval: of fewer, resamples are too much alike."""

Values = dict[str, np.ndarray]
"""Name of a figure to its value in each resample."""


def intervals(short: Sequence[Reading], long: Sequence[Reading] = ()) -> dict[str, list[float]]:
    """Name of a figure to the 2.5th and the 97.5th percentile of its values; figures of fewer than FEWEST videos are not there."""
    return _percentiles(_values(short, long))


def differences(
    short: Sequence[Reading], long: Sequence[Reading], base_short: Sequence[Reading], base_long: Sequence[Reading]
) -> dict[str, list[float]]:
    """The same of a variant's figures minus those of another one, each resample being of the same videos in both. Figures that cannot be
    compared, since the videos are not of the same cases, are not there."""
    pairs = [(each, base) for each, base in ((short, base_short), (long, base_long)) if [r.case for r in each] == [r.case for r in base]]
    ours, theirs = (_values(*(pair[side] if pair in pairs else () for pair in ((short, base_short), (long, base_long)))) for side in (0, 1))
    return _percentiles({name: ours[name] - theirs[name] for name in ours.keys() & theirs.keys()})


def _values(short: Sequence[Reading], long: Sequence[Reading]) -> Values:
    values: Values = {}
    if len(short) >= FEWEST:
        lags = lag_correlations(short)
        best = max(lags, key=lags.get)
        n, x, y, xx, yy, xy, right, clips, identity, videos, at, ats, within, withins, sharp = _sums([_of_video(r, best) for r in short]).T
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "lip_sync_correlation": (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)),
                "mood_accuracy": right / clips,
                "identity_distance": identity / videos,
                "seam_ratio": (at / ats) / (within / withins),
                "sharpness": sharp / videos,
            }
        falls, frames = _sums([np.array([blinks(r), len(r.eyes[0])]) for r in (*short, *long)]).T
        values["blinks_per_minute"] = 60 * FPS * falls / frames
    if len(long) >= FEWEST:
        drift, count = _sums([np.array([drift_of(r), 1.0]) for r in long]).T
        values["identity_drift"] = drift / count
    return values


def _of_video(reading: Reading, lag: int) -> np.ndarray:
    """Sums over a video, from which those over several and then their figures follow."""
    seen, true = reading.opening[0][max(0, lag) :], reading.opening[1][max(0, -lag) :]
    seen, true = seen[: len(true)].astype(np.float64), true[: len(seen)].astype(np.float64)
    starts = range(SETTLED, len(reading.moods) - CLIP_FRAMES + 1, CLIP_FRAMES)
    right = sum(MOODS[reading.moods[s : s + CLIP_FRAMES].mean(axis=0).argmax()] == reading.case.mood for s in starts)
    at = borders(len(reading.motion) + 1)
    motion, within = reading.motion.astype(np.float64), np.delete(reading.motion, at).astype(np.float64)
    lips = [len(seen), seen.sum(), true.sum(), seen @ seen, true @ true, seen @ true]
    seams = [motion[at].sum(), len(at), within.sum(), len(within)]
    return np.array([*lips, right, len(starts), reading.identity.mean(), 1, *seams, reading.sharpness])


def mean_interval(values: np.ndarray) -> list[float] | None:
    """The 95 % interval of the mean of one value (n) from each video, or of one difference between two; those that are NaN do not count, and
    None where fewer than FEWEST are left."""
    known = values[np.isfinite(values)]
    if len(known) < FEWEST:
        return None
    return _percentiles({"": known[_resamples(len(known))].mean(axis=1)})[""]


def _sums(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(RESAMPLES n): sums of the rows (n) over each resample."""
    return np.stack(rows)[_resamples(len(rows))].sum(axis=1)


def _resamples(videos: int) -> np.ndarray:
    """(RESAMPLES videos): which videos are in each, the same ones for as many videos."""
    return np.random.default_rng(0).integers(videos, size=(RESAMPLES, videos))


def _percentiles(values: Values) -> dict[str, list[float]]:
    known = {name: each[np.isfinite(each)] for name, each in values.items()}
    return {name: [float(value) for value in np.percentile(each, [2.5, 97.5])] for name, each in known.items() if len(each)}
