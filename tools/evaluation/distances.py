"""How far a variant is from what the sampler converges to, and how much its videos still differ from seed to seed.

Both in units of the distance between two seeds of the converged solution: with the same seed 1 is another video altogether.
"""

from collections.abc import Mapping

import numpy as np

from tools.evaluation.intervals import mean_interval
from tools.evaluation.readings import Reading
from tools.evaluation.running import Results
from tools.evaluation.variants import CONVERGED, VARIANTS, again


def distances(results: Mapping[str, Results], key: str) -> dict:
    """deviation: from the converged solution of the same guidance with the same noise. variety: between two seeds. Each is the mean over the
    short videos, with its interval under ``distance_intervals`` and its values under ``distances_per_video``; None where what it takes was not
    rendered."""
    settings = VARIANTS[key].guided
    goal, goal_again = (_short(results, each) for each in (CONVERGED[settings], again(CONVERGED[settings])))
    own, own_again = _short(results, key), _short(results, again(key))
    found, sure, values = {}, {}, {}
    for name, first, second in (("deviation", own, goal), ("variety", own, own_again)):
        per_video = np.array([_apart(a, b) / _apart(c, d) for a, b, c, d in zip(first, second, goal, goal_again, strict=False)])
        found[name] = float(per_video.mean()) if len(per_video) else None
        sure[name] = mean_interval(per_video)
        values[name] = per_video.tolist()
    return found | {"distance_intervals": sure, "distances_per_video": values}


def farther(entry: Mapping, base: Mapping) -> dict[str, list[float]]:
    """By name, the 95 % interval of how much larger the distances of a variant are than those of ``base``, video by video."""
    ours, theirs = (each.get("distances_per_video", {}) for each in (entry, base))
    pairs = {name: (ours[name], theirs[name]) for name in ours.keys() & theirs.keys() if len(ours[name]) == len(theirs[name])}
    return {name: interval for name, (a, b) in pairs.items() if (interval := mean_interval(np.subtract(a, b)))}


def _short(results: Mapping[str, Results], key: str) -> list[Reading]:
    return results[key].short if key in results else []


def _apart(a: Reading, b: Reading) -> float:
    """Root of the mean square of the difference of two videos."""
    return float(np.sqrt(np.square(a.sampled.astype(np.float32) - b.sampled).mean()))
