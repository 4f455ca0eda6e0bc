"""Render talking videos without ComfyUI's window: one, or thousands on several GPUs and machines.

    python scripts/render.py --image FILE --audio FILE --output FILE.mp4 [settings]
    python scripts/render.py MANIFEST --output DIR [--workers N] [settings]

MANIFEST: JSON lines or CSV; each line names image and audio, and whatever differs from the settings given here. DIR gets the videos, done.jsonl
and failed.jsonl. Stop it in any way and start it again: only what is missing is made, long videos from their last clip. Other machines help
when they run the same in the same folder. Settings are those of the nodes, see docs/rendering.md; --config reads them from YAML, also from the
reference implementation's inference.yaml, whose arguments (--input_image, --input_audio, --output_dir, --seed) are understood as well.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import bootstrap  # noqa: F401
from memo_modules.crew.processes import Processes
from memo_modules.crew.running import Crew
from memo_modules.errors import InputError
from memo_modules.files.remote import fetched
from memo_modules.pipeline import DTYPES, devices_for
from memo_modules.rendering.carrying import Carrying, Elsewhere
from memo_modules.rendering.folder import FAILED, INSIDE, ResultFolder, Say
from memo_modules.rendering.jobs import KINDS, Job, make_job, read_defaults, read_manifest
from memo_modules.rendering.renderer import Models
from memo_modules.rendering.workers import Keyed, Rendering, open_jobs, render_here, render_in_crew, renderings
from memo_modules.store.catalogue import CATALOGUE
from memo_modules.words import hours, quoted
from scripts import entry
from scripts.entry import run

SHOWN = 20
"""Failed jobs that are listed."""

OF_ALL = {"weight_dtype": "dtype", "model_name_or_path": "checkpoint"}
"""Settings of the reference's configuration that are arguments here."""

ELSEWHERE = ("wav2vec", "emotion2vec", "vae", "face_analysis", "vocal_separator", "audio_emotion_classifier", "misc_model_dir", "output_dir")
"""What it says of where models lie: here they are found in --models."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = entry.parser(__doc__)
    parser.add_argument("manifest", type=Path, nargs="?", metavar="MANIFEST", help="JSON lines or CSV of jobs")
    parser.add_argument("--image", "--input_image", metavar="FILE", help="one portrait, a file or a URL")
    parser.add_argument("--audio", "--input_audio", metavar="FILE", help="one voice, a file or a URL")
    parser.add_argument("--output", "--output_dir", type=Path, required=True, metavar="PATH", help="the folder of the videos, or one video")
    parser.add_argument("--upload", default="", metavar="URL", help="put the videos into this folder of an object store instead")
    parser.add_argument("--config", type=Path, metavar="YAML", help="settings for all jobs")
    parser.add_argument("--models", type=Path, default=Path("models"), metavar="DIR", help="the models folder of a ComfyUI (default: models)")
    parser.add_argument("--checkpoint", metavar="NAME", help="in models/memo, or the path of one (default: the first found)")
    parser.add_argument("--lora", action="append", default=[], metavar="FILE[:STRENGTH]", help="merge it into the nets; may be given several times")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the nets (default: auto)")
    parser.add_argument("--name", action="append", default=[], metavar="ROLE=NAME", help=f"where there are several models of {', '.join(CATALOGUE)}")
    parser.add_argument("--device", default="auto", help="auto, cpu, mps, cuda (all GPUs), cuda:0,cuda:1 (default: auto)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes, each with its own models (default: one for each device)")
    entry.add_ray(parser)
    parser.add_argument(
        "--ray-models",
        type=Path,
        metavar="DIR",
        help="--models as it lies on the cluster's machines, which then need to share no folder with this one",
    )
    parser.add_argument("--json", action="store_true", help="progress as JSON lines, for programs")
    settings = parser.add_argument_group("settings for all jobs, of which a line of the manifest may say otherwise")
    for each in fields(Job):
        if each.name not in ("image", "audio", "output"):
            settings.add_argument(f"--{each.name.replace('_', '-')}", metavar=KINDS[each.name].__name__.upper(), help=f"(default: {each.default!r})")
    arguments = parser.parse_args(argv)
    if (arguments.manifest is None) == (arguments.image is None and arguments.audio is None) or (arguments.image is None) != (
        arguments.audio is None
    ):
        parser.error("expected either a MANIFEST, or --image and --audio")
    entry.check_ray(parser, arguments)
    if arguments.ray_models and not arguments.ray:
        parser.error("argument --ray-models: expected --ray with it")
    if arguments.workers is not None and arguments.workers < 1:
        parser.error(f"argument --workers: expected 1 or more, got {arguments.workers}")
    return arguments


def defaults_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings of the configuration and of the command line, which counts. Those of all jobs are put into ``arguments``."""
    found = read_defaults(arguments.config) if arguments.config else {}
    for name in ELSEWHERE:
        found.pop(name, None)
    for name, ours in OF_ALL.items():
        if name in found and getattr(arguments, ours) is None:
            value = found[name]
            setattr(arguments, ours, value if ours == "dtype" or (arguments.models / "memo" / str(value)).exists() else None)
        found.pop(name, None)
    if arguments.dtype not in (None, *DTYPES):
        raise InputError(f"weight_dtype: expected one of {', '.join(DTYPES)}, got {quoted(arguments.dtype)}.")
    for each in fields(Job):
        given = getattr(arguments, each.name, None)
        if each.name not in ("image", "audio", "output") and given is not None:
            try:
                found[each.name] = given if KINDS[each.name] is str else json.loads(given.lower())
            except ValueError as error:
                raise InputError(f"--{each.name.replace('_', '-')}: expected {KINDS[each.name].__name__}, got {quoted(given)}.") from error
    return found


def jobs_of(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> tuple[Path, list[tuple[str, Job | InputError]]]:
    """The folder of the results, and the jobs with where each stands."""
    root, named = arguments.output, {}
    if not arguments.manifest and root.suffix in (".mp4", ".mkv"):
        root, named = root.parent, {"output": root.name}
    root = root.absolute()

    def fetch(url: str) -> Path:
        return fetched(url, root / INSIDE / "inputs")

    if arguments.manifest:
        return root, read_manifest(arguments.manifest.absolute(), defaults, fetch)
    values = {**defaults, **named, "image": arguments.image, "audio": arguments.audio}
    return root, [("this job", make_job(values, Path.cwd(), "this job", fetch))]


class Progress:
    """What happens, as a line on the screen or as JSON lines."""

    def __init__(self, jobs: int, earlier: int, as_json: bool):
        self.jobs, self.done, self.failed, self.frames, self.clips, self.as_json = jobs, earlier, 0, 0, 0, as_json
        self.stream = sys.stdout
        self.began, self.shown, self.earlier = time.monotonic(), 0.0, earlier
        self("begin", {"jobs": jobs, "done": earlier})

    def __call__(self, kind: str, event: Mapping[str, Any]) -> None:
        self.done += kind == "done"
        self.failed += kind == "failed"
        if kind == "clip":
            self.frames, self.clips = self.frames + event["frames"], self.clips + 1
        seconds, finished = time.monotonic() - self.began, self.done + self.failed - self.earlier
        left = self.jobs - self.done - self.failed
        rate = self.frames / seconds if seconds else 0.0
        if self.as_json:
            totals = {
                "jobs_done": self.done,
                "jobs_failed": self.failed,
                "jobs_left": left,
                "frames_made": self.frames,
                "frames_per_second": round(rate, 3),
            }
            line = {**event, "event": kind, "time": round(time.time(), 3), **totals}
            print(json.dumps(line | {"seconds_left": round(seconds / finished * left, 1) if finished else None}), file=self.stream, flush=True)
            return
        if kind == "failed":
            print(f"{event['output']} failed: {event['reason']}", file=self.stream, flush=True)
        terminal = self.stream.isatty()
        if kind == "done" or (terminal and time.monotonic() - self.shown > 1):
            self.shown = time.monotonic()
            text = f"{self.done} of {self.jobs} done, {self.failed} failed, {self.frames} frames, {rate:.1f} per second"
            text += f", {hours(seconds / finished * left)} left" if finished else ""
            print(("\r" if terminal else "") + text, end="" if terminal and left else "\n", file=self.stream, flush=True)

    def say(self, event: Mapping[str, Any]) -> None:
        self(event["event"], event)


def render(arguments: argparse.Namespace) -> int:
    """0 when every job is done."""
    defaults = defaults_of(arguments)
    root, found = jobs_of(arguments, defaults)
    names = dict(text.partition("=")[::2] for text in arguments.name)
    models = Models(arguments.models, arguments.checkpoint, arguments.dtype or "auto", tuple(arguments.lora), names)
    digest, folder = models.digest(), ResultFolder(root, upload=arguments.upload)
    jobs: dict[str, Job] = {}
    broken: list[tuple[str, str, str]] = []
    for where, job in found:
        try:
            if isinstance(job, InputError):
                raise job
            jobs[job.key(digest)] = job
        except InputError as error:
            broken.append((f"{arguments.manifest or ''} {where}".strip(), job.output if isinstance(job, Job) else where, str(error)))
    progress = Progress(len(jobs) + len(broken), sum(map(folder.is_done, jobs)), arguments.json)
    for where, output, reason in broken:
        folder.failed(where, output, reason)
        progress("failed", {"output": output, "reason": reason})
    share_out(
        arguments, Rendering(root, folder.since, models, "", os.cpu_count() or 1, arguments.upload), open_jobs(jobs, folder), folder, progress.say
    )
    folder.tidy(f"{arguments.manifest} ")
    reasons = {where: reason for where, _, reason in broken} | {
        job.output: reason for key, job in jobs.items() if not folder.is_done(key) and (reason := folder.failure(key))
    }
    if not arguments.json:
        print(
            f"{sum(map(folder.is_done, jobs))} videos in {arguments.upload or root}"
            + (f", {len(reasons)} failed, see {root / FAILED}" if reasons else "")
        )
        for name in list(reasons)[:SHOWN]:
            print(f"  {name}: {reasons[name]}")
    return 0 if not reasons and all(map(folder.is_done, jobs)) else 1


def share_out(arguments: argparse.Namespace, rendering: Rendering, jobs: Sequence[Keyed], folder: ResultFolder, say: Say) -> None:
    """Have the jobs made by the workers that were asked for."""
    if not jobs:
        return
    if arguments.ray:
        # what a machine has is known there alone
        device = "cuda" if arguments.device == "auto" and arguments.gpus_per_worker != 0 else arguments.device.replace("auto", "cpu")
        workers = arguments.workers or 1
        work = renderings(rendering, 1, [device])[0]
        if arguments.ray_models:
            elsewhere = Elsewhere(replace(work.models, folder=arguments.ray_models), device, work.threads)
            crew: Crew = Carrying(entry.ray_crew(arguments, workers, elsewhere, device), folder)
        else:
            crew = entry.ray_crew(arguments, workers, work, device)
        with redirect_stdout(sys.stderr):  # where Ray says what it has to say of machines that are lost
            render_in_crew(crew, workers, jobs, folder, say)
        return
    devices = devices_for(arguments.device)
    works = renderings(rendering, arguments.workers or len(devices), devices)
    if len(works) == 1:
        render_here(works[0], jobs, say)
    else:
        render_in_crew(Processes(works), len(works), jobs, folder, say)


def main(argv: list[str]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return render(parse_arguments(argv))


if __name__ == "__main__":
    run(
        "render.py",
        partial(main, sys.argv[1:]),
        "stopped. Start it again to continue: what is finished stays, long videos continue after their last clip.",
    )
