"""The figures of one variant, from its readings."""

from collections.abc import Sequence

import numpy as np

from memo_modules.clips import CLIP_FRAMES
from tools.evaluation.reader import SHUT_BELOW
from tools.evaluation.readings import Reading, borders
from tools.small_world import FPS, MOODS, correlation

MAX_LAG = 5
"""Largest lag in frames, before or after the sound, at which the mouth is compared with it."""

SETTLED = CLIP_FRAMES
"""Frames until a mood has to be there: videos start from a neutral portrait, and moods come within a third of a second."""

EDGE = 10 * FPS
"""Frames at the start and at the end of a long video from which drift is measured; a third of a short one."""


def figures(short: Sequence[Reading], long: Sequence[Reading] = ()) -> dict:
    """The entry of a variant in the JSON, but for its settings; keys without a value are None.

    lip_sync_*: over all videos, at the lag of best correlation, above 0 when the mouth comes late. mood_accuracy: share of
    the sampler's clips whose mood, voted by its frames, is the commanded one; the first clip of a video does not count.
    identity_drift: how much farther from the portrait the last ten seconds of long videos are than their first ten, where two
    characters are 1 apart; per minute: the slope over all of them. seam_ratio: mean motion at clip borders against that within.
    """
    every = [*short, *long]
    lags = lag_correlations(short)
    best = max(lags, key=lags.get)
    counts = confusion(short)
    seconds = [s for reading in every for s in reading.seconds]
    return {
        "lip_sync_correlation": lags[best],
        "lip_sync_lag_frames": best,
        "lip_sync_correlation_at_0": lags[0],
        "lip_sync_worst_video": min(max(lag_correlations([reading]).values()) for reading in short),
        "lip_sync_long_video": max(lag_correlations(long).values()) if long else None,
        "mouth_opening_error": float(np.mean([np.abs(r.opening[0] - r.opening[1]).mean() for r in short])),
        "mouth_width_correlation": correlation(*np.concatenate([r.width for r in short], axis=1)),
        "mood_accuracy": float(np.trace(counts) / counts.sum()) if counts.sum() else None,
        "mood_confusion": counts.tolist(),
        "blinks_per_minute": 60 * FPS * sum(map(blinks, every)) / sum(len(reading.eyes[0]) for reading in every),
        "identity_distance": float(np.mean([r.identity.mean() for r in short])),
        **_drift(long),
        "backdrop_error": _mean([r.backdrop.mean() for r in short]),
        "seam_ratio": seam_ratio(every),
        "motion": float(np.concatenate([r.motion for r in every]).mean()),
        "sharpness": float(np.mean([r.sharpness for r in short])),
        "seconds_per_clip": float(np.median(seconds)) if seconds else None,
        "videos": len(short),
        "frames": sum(len(r.identity) for r in every),
        "per_video": [_of_video(reading) for reading in short],
    }


def lag_correlations(readings: Sequence[Reading]) -> dict[int, float]:
    """Lag in frames to the correlation of seen and true opening over all videos."""
    found = {}
    for lag in sorted(range(-MAX_LAG, MAX_LAG + 1), key=abs):  # of equal ones the smallest lag
        pairs = [(r.opening[0][max(0, lag) :], r.opening[1][max(0, -lag) :]) for r in readings]
        pairs = [(seen[: len(true)], true[: len(seen)]) for seen, true in pairs]
        found[lag] = correlation(*(np.concatenate(parts) for parts in zip(*pairs, strict=True)))
    return found


def confusion(readings: Sequence[Reading]) -> np.ndarray:
    """int (4 4): clips of the sampler by commanded mood (rows) and the one that their frames show, settled ones only."""
    counts = np.zeros((len(MOODS), len(MOODS)), dtype=int)
    for reading in readings:
        for start in range(SETTLED, len(reading.moods) - CLIP_FRAMES + 1, CLIP_FRAMES):
            seen = reading.moods[start : start + CLIP_FRAMES].mean(axis=0).argmax()
            counts[MOODS.index(reading.case.mood), seen] += 1
    return counts


def seam_ratio(readings: Sequence[Reading]) -> float | None:
    """Mean motion at borders over mean motion within clips; None where there is no border or no motion."""
    at_borders = np.concatenate([r.motion[borders(len(r.motion) + 1)] for r in readings])
    within = np.concatenate([np.delete(r.motion, borders(len(r.motion) + 1)) for r in readings])
    return float(at_borders.mean() / within.mean()) if len(at_borders) and within.mean() > 0 else None


def drift_of(long: Reading) -> float:
    """How much farther from the portrait a video is at its end than at its start."""
    edge = _edge(long)
    return float(long.identity[-edge:].mean() - long.identity[:edge].mean())


def _edge(long: Reading) -> int:
    return min(EDGE, len(long.identity) // 3)


def _drift(long: Sequence[Reading]) -> dict:
    if not long:
        names = ("identity_drift", "identity_early", "identity_late", "identity_slope_per_minute", "backdrop_drift", "long_seconds")
        return dict.fromkeys(names)
    slopes = [np.polyfit(np.arange(len(r.identity)) / FPS / 60, r.identity, 1)[0] for r in long]
    return {
        "identity_drift": _mean([drift_of(r) for r in long]),
        "identity_early": _mean([r.identity[: _edge(r)].mean() for r in long]),
        "identity_late": _mean([r.identity[-_edge(r) :].mean() for r in long]),
        "identity_slope_per_minute": _mean(slopes),
        "backdrop_drift": _mean([r.backdrop[-_edge(r) :].mean() - r.backdrop[: _edge(r)].mean() for r in long]),
        "long_seconds": len(long[0].identity) / FPS,
        "drift_per_video": [drift_of(r) for r in long],
    }


def blinks(reading: Reading) -> int:
    """How often the eyes of a video fall shut."""
    shut = reading.eyes[0] < SHUT_BELOW
    return int((~shut[:-1] & shut[1:]).sum())


def _of_video(reading: Reading) -> dict:
    lags = lag_correlations([reading])
    best = max(lags, key=lags.get)
    mood = MOODS[reading.moods[SETTLED:].mean(axis=0).argmax()] if len(reading.moods) > SETTLED else None
    case = reading.case
    return {"identity": case.identity, "voice": case.voice, "mood": case.mood, "correlation": lags[best], "lag": best, "mood_seen": mood}


def _mean(values: Sequence[float]) -> float | None:
    known = [float(value) for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
