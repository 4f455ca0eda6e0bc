"""Prepare videos of one speaking face each for training.

    python scripts/prepare_data.py VIDEOS OUTPUT --models MODELS
    python scripts/prepare_data.py VIDEOS OUTPUT --sheet sheet.jpg
    python scripts/prepare_data.py VIDEOS --durations

Writes training data for every video in VIDEOS and its subfolders, and a line for each to OUTPUT/metadata.jsonl. Videos that
cannot be used are listed in OUTPUT/failed.jsonl, with the reason: training looks at the middle square of the picture, in which
one face has to be all the time. It may be stopped at any moment, and continues where it was when it is started again. The
features follow a video's own frames. MEMO makes 30 per second: other videos teach another pace.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import bootstrap  # noqa: F401
from memo_modules.clips import FPS, frame_rate, other_rates
from memo_modules.crew.processes import Processes
from memo_modules.crew.running import Crew
from memo_modules.errors import InputError
from memo_modules.preparation.finding import find_videos
from memo_modules.preparation.folder import FAILED, METADATA, Report, Run, prepare_folder
from memo_modules.preparation.preparer import Job, ModelPlaces, Settings, fingerprints
from memo_modules.preparation.videos import duration, stated_rate
from memo_modules.preparation.workers import Preparation, prepare_here, prepare_in_crew
from memo_modules.store.obtain import SCRIPT, find_model, obtain
from memo_modules.training.dataset import ClipLayout, read_metadata
from memo_modules.training.sheets import SUFFIXES as SHEETS
from memo_modules.training.sheets import draw_sheets
from memo_modules.words import first_line, quoted
from scripts import entry
from scripts.entry import run

SHOWN = 20
MOST_WORKERS = 1024
LONGEST = 20
SHORTEST, LONGEST_ASKED = 2, 3600


def parse_arguments() -> argparse.Namespace:
    parser = entry.parser(__doc__)
    parser.add_argument("videos", type=Path, metavar="VIDEOS", help="folder of videos; those in folders below count too")
    parser.add_argument("output", type=Path, nargs="?", metavar="OUTPUT", help="where metadata.jsonl and the files go that it names")
    parser.add_argument("--models", type=Path, help="the `models` folder of a ComfyUI, with MEMO's models in it")
    parser.add_argument("--checkpoint", metavar="NAME", help="of MODELS/memo: whose face analysis, separator and classifier to use, if it has them")
    parser.add_argument("--audio-encoder", metavar="NAME", help="as the loader lists it, where there are several")
    parser.add_argument("--emotion2vec", metavar="NAME", help="as the loader lists it, where there are several")
    parser.add_argument("--without-separation", action="store_true", help="hear the sound as it is: for voices without music or noise")
    parser.add_argument(
        "--workers", type=int, default=1, help="how many at a time: with the published models about 3 GB and a core each (default: 1)"
    )
    entry.add_ray(parser)
    parser.add_argument("--fps", type=float, help="rewrite videos of another or a varying frame rate at this one, 30 in MEMO (default: leave them)")
    parser.add_argument("--crop", choices=["face"], help="face: where the face is not in the middle square, cut the square around it")
    parser.add_argument(
        "--split",
        type=float,
        nargs="?",
        const=LONGEST,
        metavar="SECONDS",
        help=f"cut recordings into clips at scene changes, and in pauses so that none is longer (default: {LONGEST} seconds)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or several to share among the workers, as cuda:0,cuda:1 (default: cpu)")
    parser.add_argument("--durations", action="store_true", help="only say how long the videos are")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="draw a picture of each prepared video, as training will see it; without --models only that"
    )
    arguments = parser.parse_args()
    if not arguments.durations and (arguments.output is None or not (arguments.models or arguments.sheet)):
        parser.error("expected OUTPUT and --models MODELS, OUTPUT and --sheet FILE, or --durations")
    if arguments.sheet and arguments.sheet.suffix.lower() not in SHEETS:
        parser.error(f"--sheet: expected a name that ends in {', '.join(SHEETS)}, got {quoted(str(arguments.sheet))}")
    if not 1 <= arguments.workers <= MOST_WORKERS:
        parser.error(f"--workers: expected 1 to {MOST_WORKERS}, got {arguments.workers}")
    arguments.devices = arguments.device.split(",")
    if not all(re.fullmatch(r"cpu|(cuda|xpu)(:\d{1,3})?|mps", device) for device in arguments.devices):
        parser.error(f"--device: expected cpu, cuda, or several as cuda:0,cuda:1, got {quoted(arguments.device)}")
    entry.check_ray(parser, arguments)
    if arguments.split is not None and not SHORTEST <= arguments.split <= LONGEST_ASKED:
        parser.error(f"--split: expected {SHORTEST} to {LONGEST_ASKED} seconds, got {arguments.split:g}")
    if arguments.checkpoint and not arguments.models:
        parser.error("--checkpoint: expected --models MODELS with it")
    if arguments.models and not arguments.models.is_dir():
        parser.error(f"--models: {arguments.models} is not a folder")
    if arguments.checkpoint and not (arguments.models / "memo" / arguments.checkpoint).is_dir():
        parser.error(f"--checkpoint: there is no {arguments.models / 'memo' / arguments.checkpoint}")
    return arguments


def find_places(arguments: argparse.Namespace) -> ModelPlaces:
    """The models that were asked for. Raises CheckpointError when one is not there."""
    models = arguments.models

    def named(role: str, name: str | None) -> Path:
        return obtain(role, name, lambda kind: [models / kind], remedy=SCRIPT, exact=True) if name else find_model(role, models)

    return ModelPlaces(
        face_analysis=find_model("face_analysis", models, arguments.checkpoint),
        audio_encoder=named("audio_encoder", arguments.audio_encoder),
        emotion2vec=named("emotion2vec", arguments.emotion2vec),
        emotion_classifier=find_model("emotion_classifier", models, arguments.checkpoint),
        vocal_separator=None if arguments.without_separation else find_model("vocal_separator", models, arguments.checkpoint),
    )


def check_device(device: str) -> None:
    """Raises InputError when torch cannot compute there, which the workers would find out one by one."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device: {device} is not there ({first_line(error)}). Use cpu.") from error


def prepare(arguments: argparse.Namespace) -> int:
    for device in arguments.devices if not arguments.ray else ():
        check_device(device)
    places = find_places(arguments)
    for role, place in vars(places).items():
        print(f"{role}: {place or 'none'}", flush=True)
    settings = Settings(
        places,
        frame_rate(arguments.fps) if arguments.fps is not None else None,
        arguments.devices[0],
        arguments.crop == "face",
        arguments.split,
        ClipLayout().shortest_video,
    )
    record = {**fingerprints(places), **settings.record}
    begin = partial(show_rates, rewritten=settings.fps is not None)
    report = prepare_folder(arguments.videos, arguments.output, record, choose_run(arguments, settings), Progress(), begin)
    show(report, arguments.output)
    return 0 if report.earlier or report.prepared else 1


def show_rates(jobs: Sequence[Job], rewritten: bool) -> None:
    """Which frame rates there are besides MEMO's, by the word of the files."""
    if said := other_rates([_rate_or_nothing(job.path) for job in jobs]):
        print(said + ("" if rewritten else f" What is learned from them moves at another pace: --fps {FPS} rewrites them."), flush=True)


def _rate_or_nothing(path: Path) -> Fraction | None:
    try:
        return stated_rate(path)
    except InputError:  # said when it is prepared
        return None


def choose_run(arguments: argparse.Namespace, settings: Settings) -> Run:
    def crew() -> Crew:
        if arguments.ray:
            return entry.ray_crew(arguments, arguments.workers, Preparation(settings), settings.device)
        return Processes([Preparation(replace(settings, device=device)) for device in arguments.devices])

    return partial(prepare_in_crew, crew, arguments.workers) if arguments.ray or arguments.workers > 1 else partial(prepare_here, settings)


class Progress:
    """One line, at most once a second, with the time left; loading the models is not counted in it."""

    def __init__(self):
        self.first = self.shown = None

    def __call__(self, done: int, total: int, report: Report) -> None:
        now = time.monotonic()
        self.first = self.first or now
        if done < total and self.shown and now - self.shown < 1:
            return
        self.shown = now
        left = f", {(now - self.first) / (done - 1) * (total - done):.0f} s left" if done > 1 else ""
        print(f"\r{done} of {total} videos, {len(report.failed)} failed{left}  ", end="" if done < total else "\n", flush=True)


def show(report: Report, output: Path) -> None:
    videos = report.earlier + len(report.prepared)
    clips = f" in {report.clips} clips" if report.clips != videos else ""
    print(f"{output / METADATA}: {videos} videos{clips}, {len(report.prepared)} of them new.")
    for note, noted in report.notes.items():
        more = f" and {len(noted) - 3} more" if len(noted) > 3 else ""
        print(f"{len(noted)} of the new ones are {note} ({', '.join(sorted(noted)[:3])}{more}).")
    if report.failed:
        print(f"{len(report.failed)} cannot be used, see {output / FAILED}:")
    for video in sorted(report.failed)[:SHOWN]:
        print(f"  {video}: {report.failed[video]}")
    if len(report.failed) > SHOWN:
        print(f"  and {len(report.failed) - SHOWN} more")
    show_passed_over(report.passed_over)


def show_passed_over(others: str) -> None:
    if others:
        print(f"Passed over, since they are no videos by their name and first bytes: {others}.")


def show_durations(folder: Path) -> int:
    frames, seconds, found = 0, Fraction(0), find_videos(folder)
    videos, failed = found.videos, 0
    for path, reason in sorted(found.refused.items()):
        print(f"{path}: {reason}")
    for path in videos:
        try:
            of_video = duration(path)
        except InputError as error:
            failed += 1
            print(f"{path}: {error}")
            continue
        frames, seconds = frames + of_video[0], seconds + of_video[1]
    hours, rest = divmod(float(seconds), 3600)
    print(f"{len(videos) - failed} videos, {frames} frames, {float(seconds):.3f} s ({hours:.0f} h {rest // 60:.0f} min {rest % 60:.3f} s)")
    show_passed_over(found.passed_over)
    return 0 if failed < len(videos) else 1


def draw(output: Path, target: Path) -> int:
    videos = read_metadata([output / METADATA])
    if not videos:
        raise InputError(f"--sheet: no video has been prepared in {output}. Prepare some, with --models.")
    failed = draw_sheets(videos, target, lambda done, total: print(f"\r{done} of {total} drawn  ", end="" if done < total else "\n", flush=True))
    for video, reason in failed.items():
        print(f"  {video}: {reason}")
    print(f"{target}: {len(videos) - len(failed)} pictures, numbered by the lines of {METADATA}.")
    return 1 if failed else 0


def main() -> int:
    arguments = parse_arguments()
    if arguments.durations:
        return show_durations(arguments.videos)
    status = prepare(arguments) if arguments.models else 0
    return status or (draw(arguments.output, arguments.sheet) if arguments.sheet else 0)


if __name__ == "__main__":
    run("prepare_data.py", main, "stopped. What is finished stays; start it again to continue.")
