"""The results as a file, as a table for the README, and as pictures."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from memo_modules.types import SamplerSettings
from tools.evaluation import pictures
from tools.evaluation.distances import distances, farther
from tools.evaluation.figures import figures
from tools.evaluation.intervals import FEWEST, differences, intervals
from tools.evaluation.running import Results
from tools.evaluation.variants import BASE, CONVERGED, TRUTH, VAE, VARIANTS
from tools.small_world import MOODS

COLUMNS = {
    "lip-sync": ("lip_sync_correlation", "{:.2f}"),
    "lag": ("lip_sync_lag_frames", "{:+d}"),
    "mood": ("mood_accuracy", "{:.0%}"),
    "character": ("identity_distance", "{:.2f}"),
    "drift": ("identity_drift", "{:+.3f}"),
    "seam": ("seam_ratio", "{:.2f}"),
    "sharpness": ("sharpness", "{:.2f}"),
}
"""Headings of the table, with key and format of what stands below."""

FURTHER = {"deviation": ("deviation", "{:.2f}"), "variety": ("variety", "{:.2f}")}
"""Those of ``distances``, where they were measured."""


def entries(results: dict[str, Results], settings: Callable[[str], SamplerSettings], device: dict) -> dict[str, dict]:
    """The `variants` of the JSON; settings are None where nothing was sampled. settings: of a variant. device: where they were made."""
    found = {}
    for key, result in results.items():
        variant = VARIANTS[key]
        sampled = None if key in (TRUTH, VAE) else {"memory": variant.memory, "mood": variant.mood, **asdict(settings(key))}
        entry = {"title": variant.title, "settings": sampled}
        if result.same:
            entry["equal_to"] = variant.equal_to
        entry |= {"device": device} | figures(result.short, result.long) | {"intervals": intervals(result.short, result.long)}
        if key not in (TRUTH, VAE) and any(goal in results for goal in CONVERGED.values()):
            entry |= distances(results, key)
        if key != BASE and (other := results.get(BASE)):
            entry["minus_base"] = differences(result.short, result.long, other.short, other.long)
        found[key] = entry
    for entry in found.values():
        if "minus_base" in entry:
            entry["minus_base"] |= farther(entry, found[BASE])
    return found


def write_json(path: Path, document: dict) -> dict:
    """Write ``document``; where the file holds other variants of the same model under the same conditions, they stay. Returns
    what was written."""
    conditions = ("model", "base", "cases", "reader")
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        if all(old.get(name) == document[name] for name in conditions):
            every = old["variants"] | document["variants"]
            document = document | {"variants": {key: every[key] for key in VARIANTS if key in every}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return document


def table(document: dict | None) -> str:
    """Markdown; a sentence where nothing was evaluated."""
    if document is None:
        return "Nothing has been evaluated yet."
    entries = document["variants"].values()
    columns = COLUMNS | {name: column for name, column in FURTHER.items() if any(column[0] in entry for entry in entries)}
    lines = [["variant", *columns], ["---"] * (len(columns) + 1)]
    for entry in entries:
        cells = [_cell(entry, key, shape) for key, shape in columns.values()]
        lines.append([entry["title"], *cells])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    base, cases = document["base"], document["cases"]
    lengths = f"{cases['identities'] * len(MOODS)} of {cases['seconds']:g} s"
    if cases["long_seconds"]:
        lengths += f", and {cases.get('long_identities', 1)} of {cases['long_seconds']:g} s for the drift"
    doubts = any(entry.get("intervals") for entry in document["variants"].values())
    sure = (
        f" ±: half of the 95 % interval; fewer than {FEWEST} videos have none. =: no difference from “{VARIANTS[BASE].title}” seen." if doubts else ""
    )
    return f"{rows}\n\nWhere the variant says nothing else: {base['steps']} steps, guidance {base['guidance_scale']:g}. Videos: {lengths}.{sure}"


def _cell(entry: dict, key: str, shape: str) -> str:
    """A figure, the half of its interval where that is known, and an equals sign where it may be the base variant's."""
    if entry.get(key) is None:
        return "–"
    low, high = entry.get("intervals", {}).get(key) or entry.get("distance_intervals", {}).get(key) or (0.0, 0.0)
    doubt = f" ± {shape.replace('+', '').format((high - low) / 2)}" if high > low else ""
    low, high = entry.get("minus_base", {}).get(key, (1.0, 1.0))
    return shape.format(entry[key]) + doubt + (" =" if low <= 0 <= high else "")


def write_pictures(folder: Path, results: dict[str, Results], found: dict[str, dict]) -> list[Path]:
    """Contact sheet, lips and seams of the base variant (or the first there is), moods, drift and bars of all."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = results[BASE if BASE in results else next(iter(results))]
    drawn = {"sheet": pictures.sheet(shown.short), "lips": pictures.lips(shown.short[:8])}
    drawn["moods"] = pictures.confusions({key: np.array(entry["mood_confusion"]) for key, entry in found.items()})
    drawn["figures"] = pictures.bars("figures by variant", _bars(found))
    seams = (shown.long or shown.short)[0]
    if len(seams.around):
        drawn["seams"] = pictures.seams(seams)
    long = {key: result.long[0] for key, result in results.items() if result.long}
    if long:
        drawn["drift"] = pictures.drift(long)
    for name, picture in drawn.items():
        picture.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in drawn]


def _bars(found: dict[str, dict]) -> dict[str, dict]:
    names = ("lip_sync_correlation", "mood_accuracy", "identity_distance", "seam_ratio")
    return {name: {key: entry[name] for key, entry in found.items()} for name in names}
