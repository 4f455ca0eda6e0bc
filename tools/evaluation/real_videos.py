"""Measures videos of anybody, made by whatever model, with the recogniser that is installed; and says which differences are more than chance.

    python -m tools.evaluate videos GENERATED [GENERATED ..] [--true TRUE] [--models ComfyUI/models]

GENERATED, TRUE: folders of videos; those of the same name show the same person saying the same. Measured are

    identity   cosine of the recogniser's embedding with that of the portrait: the first face of the true video, else of the video itself
    drift      by how much identity falls from the first ten seconds to the last (a third of shorter videos)
    faces      share of the looked-at frames in which a face is found
    seam       motion at borders of clips, relative to the motion within them; 1 is none
    motion     mean change of a pixel from a frame to the next, of 255
    sharpness  mean gradient, of 255

Lip-sync by SyncNet, FID and FVD are not among them: their networks are not in the catalogue of models, and nothing is fetched by itself.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from memo_modules.clips import CLIP_FRAMES
from memo_modules.errors import InputError
from memo_modules.pipeline import find_models
from memo_modules.portrait.face import FaceAnalyzer
from memo_modules.preparation.finding import find_videos
from memo_modules.video.reading import opened, picture_track, stream_frames
from tools.evaluation.intervals import FEWEST, mean_interval

ROOT = Path(__file__).resolve().parents[2]

FIGURES = {"identity": "{:.3f}", "drift": "{:+.3f}", "faces": "{:.0%}", "seam": "{:.2f}", "motion": "{:.2f}", "sharpness": "{:.2f}"}
"""With the format of their means."""

EDGE = 10
"""Seconds at the start and at the end of a video between which drift is measured."""

TRUE = "true"
"""The row of the true videos."""

Values = dict[str, float]
"""By FIGURES, of one video; NaN where there is none."""


@dataclass(frozen=True)
class Seen:
    """What was measured in a video of f frames. embeddings: (n 512) of its faces at the looked-at ``frames`` (n) in which one was found; looks:
    how many were looked at. motion: (f-1). sharpness: (looks). fps: frames per second."""

    embeddings: np.ndarray
    frames: np.ndarray
    looks: int
    motion: np.ndarray
    sharpness: np.ndarray
    fps: float


def look(path: Path, analyzer: FaceAnalyzer, every: float) -> Seen:
    """every: seconds between the frames in which a face is looked for. Raises InputError for what is no video, and one of a single frame."""
    with opened(path) as container:
        fps = float(picture_track(container).average_rate or 0) or 30.0
    apart, before = max(1, round(every * fps)), None
    faces, frames, motion, sharpness, looks = [], [], [], [], 0
    for number, picture in enumerate(stream_frames(path)):
        if number % apart == 0:
            shown, looks = picture.permute(1, 2, 0).numpy(), looks + 1
            sharpness.append(_gradient(picture))
            if found := analyzer.detect(shown):
                faces.append(analyzer.embed(shown, found[0])[0].numpy())
                frames.append(number)
        picture = picture.short()
        if before is not None:
            if picture.shape != before.shape:
                raise InputError(f"{path}: its pictures change their size at frame {number}.")
            motion.append((picture - before).abs().float().mean().item())
        before = picture
    if not motion:
        raise InputError(f"{path}: expected a video of two frames or more.")
    return Seen(np.array(faces).reshape(-1, 512), np.array(frames, dtype=int), looks, np.array(motion), np.array(sharpness), fps)


def values(seen: Seen, portrait: np.ndarray | None, borders: Callable[[int], np.ndarray]) -> Values:
    """portrait: (512), or None for the first face of the video itself, which then does not count. borders: from a number of frames to those
    with which a clip begins, the first one apart."""
    itself = portrait is None
    if itself and len(seen.embeddings):
        portrait = seen.embeddings[0]
    others, at = (seen.embeddings[1:], seen.frames[1:]) if itself else (seen.embeddings, seen.frames)
    found = dict.fromkeys(FIGURES, float("nan"))
    if len(others) and portrait is not None:
        likeness = others @ portrait / np.maximum(np.linalg.norm(others, axis=1) * np.linalg.norm(portrait), 1e-12)
        total = len(seen.motion) + 1
        edge = min(EDGE * seen.fps, total / 3)
        early, late = likeness[at < edge], likeness[at >= total - edge]
        found["identity"] = float(likeness.mean())
        if len(early) and len(late):
            found["drift"] = float(early.mean() - late.mean())
    found["faces"] = len(seen.embeddings) / seen.looks
    changes = borders(len(seen.motion) + 1) - 1
    within = np.delete(seen.motion, changes)
    if len(changes) and len(within) and within.mean() > 0:
        found["seam"] = float(seen.motion[changes].mean() / within.mean())
    return found | {"motion": float(seen.motion.mean()), "sharpness": float(seen.sharpness.mean())}


def every_so_many(clip_frames: int, frames: int) -> np.ndarray:
    return np.arange(clip_frames, frames, clip_frames)


def at_frames(numbers: Sequence[int], frames: int) -> np.ndarray:
    return np.array([number for number in sorted(set(numbers)) if 0 < number < frames], dtype=int)


def evaluate(arguments: argparse.Namespace, say: Callable[[str], None] = print) -> dict:
    """The document of the JSON: rows with the figures of their videos, means with intervals, and what differs from the first folder."""
    analyzer = FaceAnalyzer.load(find_models(arguments.models, None, {})[1]("face_analysis"), cuda=arguments.device == "cuda")
    borders = partial(at_frames, arguments.borders) if arguments.borders else partial(every_so_many, arguments.clip_frames)
    folders = dict(zip(row_names(arguments.generated), map(by_name, arguments.generated), strict=True))
    true = by_name(arguments.true) if arguments.true else {}
    if lacking := sorted({name for videos in folders.values() for name in videos} - true.keys()) if true else []:
        raise InputError(f"--true: {arguments.true} has no video named {', '.join(lacking[:5])}{' ..' if len(lacking) > 5 else ''}.")
    rows: dict[str, dict[str, Values]] = {}
    portraits: dict[str, np.ndarray] = {}
    if true:
        rows[TRUE] = {}
        for name in sorted({name for videos in folders.values() for name in videos}):
            seen = look(true[name], analyzer, arguments.every)
            if not len(seen.embeddings):
                raise InputError(f"{true[name]}: expected a face, found none.")
            portraits[name], rows[TRUE][name] = seen.embeddings[0], values(seen, None, borders)
            say(f"  {true[name]}")
    for row, videos in folders.items():
        rows[row] = {}
        for name, path in videos.items():
            rows[row][name] = values(look(path, analyzer, arguments.every), portraits.get(name), borders)
            say(f"  {path}")
    base = next(iter(folders))
    return {
        "base": base,
        "rows": {row: summary(videos) | ({} if row == base else {"minus_base": compared(videos, rows[base])}) for row, videos in rows.items()},
    }


def row_names(folders: Sequence[Path]) -> list[str]:
    """Their last parts, where those differ and none is TRUE; else the whole paths."""
    names = [folder.resolve().name for folder in folders]
    return names if len({*names, TRUE}) == len(names) + 1 else [str(folder) for folder in folders]


def by_name(folder: Path) -> dict[str, Path]:
    """The videos of a folder by their path in it, without suffix. Raises InputError for two of one name."""
    found: dict[str, Path] = {}
    for path in find_videos(folder).videos:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{folder}: {found[name].name} and {path.name} have one name. Keep one of them.")
        found[name] = path
    return found


def summary(videos: dict[str, Values]) -> dict:
    """Mean and 95 % interval over the videos, by figure, and the figures of each video; None where there is none."""
    found = {}
    for figure in FIGURES:
        of_all = np.array([each[figure] for each in videos.values()])
        if np.isfinite(of_all).any():
            found[figure] = {"mean": float(np.nanmean(of_all)), "interval": mean_interval(of_all)}
    each = {name: {figure: None if np.isnan(value) else value for figure, value in figures.items()} for name, figures in videos.items()}
    return {"figures": found, "videos": each}


def compared(videos: dict[str, Values], base: dict[str, Values]) -> dict[str, list[float]]:
    """By figure, the 95 % interval of the mean difference from ``base`` over the videos that both have; without figures of too few."""
    both = sorted(videos.keys() & base.keys())
    differences = {figure: np.array([videos[name][figure] - base[name][figure] for name in both]) for figure in FIGURES}
    return {figure: interval for figure, each in differences.items() if (interval := mean_interval(each))}


def table(document: dict) -> str:
    """Markdown: means with half of their intervals, and below what is different from the base."""
    lines = [["videos", "number", *FIGURES], ["---"] * (len(FIGURES) + 2)]
    said = []
    for row, entry in document["rows"].items():
        lines.append([row, str(len(entry["videos"])), *(_cell(entry["figures"].get(figure), shape) for figure, shape in FIGURES.items())])
        said += [f"{row}, {line}" for line in _verdicts(entry.get("minus_base", {}), document["base"])]
    return "\n".join(
        [f"| {' | '.join(line)} |" for line in lines]
        + ["", f"±: half of the 95 % interval over resampled videos, of which it takes {FEWEST}.", *said]
    )


def _cell(figure: dict | None, shape: str) -> str:
    if figure is None:
        return "–"
    mean = shape.format(figure["mean"])
    if figure["interval"] is None:
        return mean
    low, high = figure["interval"]
    return f"{mean} ± {shape.replace('+', '').format((high - low) / 2)}"


def _verdicts(minus: dict[str, list[float]], base: str) -> Iterator[str]:
    for figure, (low, high) in minus.items():
        shape = FIGURES[figure].replace("+", "").replace("{:", "{:+")
        apart = "no difference seen" if low <= 0 <= high else "higher" if low > 0 else "lower"
        yield f"{figure}: {apart} (minus {base}: {shape.format(low)} to {shape.format(high)})"


def _gradient(picture: torch.Tensor) -> float:
    pixels = picture.float()
    return sum(pixels.diff(dim=side).abs().mean().item() for side in (1, 2))


def parse(argv: list[str]) -> argparse.Namespace:
    first, _, rest = (__doc__ or "").partition("\n\n")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="evaluate.py videos", description=first, epilog=rest, formatter_class=formatter)
    parser.add_argument("generated", type=Path, nargs="+", metavar="GENERATED", help="folders; the others are compared with the first")
    parser.add_argument("--true", type=Path, metavar="TRUE", help="folder of the true videos, of the same names")
    parser.add_argument("--models", type=Path, default=ROOT / "assets" / "models", metavar="DIR", help="has the recogniser (default: assets/models)")
    parser.add_argument("--every", type=float, default=0.5, metavar="SECONDS", help="between frames in which a face is looked for (default: 0.5)")
    parser.add_argument("--clip-frames", type=int, default=CLIP_FRAMES, metavar="N", help=f"a clip begins every N frames (default: {CLIP_FRAMES})")
    parser.add_argument("--borders", type=int, nargs="+", metavar="FRAME", help="with which clips begin, counted from 0, instead of --clip-frames")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    arguments = parser.parse_args(argv)
    if not 0 < arguments.every <= 3600:
        parser.error(f"--every: expected more than 0 and up to 3600 seconds, got {arguments.every:g}")
    if arguments.clip_frames < 1:
        parser.error(f"--clip-frames: expected 1 or more, got {arguments.clip_frames}")
    return arguments


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    document = evaluate(arguments, lambda line: print(line, flush=True))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(document))
