"""What scripts/render.py costs in addition to the sampler: the same jobs through it, with one worker and two, and through the pipeline alone.

In CPU seconds of all processes, since those do not depend on what else the machine does, and in seconds on the clock.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from memo_modules.pipeline import Conditioning, MemoPipeline
from memo_modules.progress import counted
from memo_modules.rendering.jobs import Job, read_manifest
from memo_modules.types import EMOTIONS

ROOT = Path(__file__).resolve().parents[2]

SIZE, STEPS, SECONDS = 128, 5, 1.0

LOADING = 2
"""Jobs for which every worker loads its models."""

WAYS = ("pipeline", "1 worker", "2 workers")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py farm", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=ROOT / "assets" / "models", metavar="DIR", help="models folder (default: assets/models)")
    parser.add_argument("--jobs", type=int, default=8, help=f"of {SECONDS:g} s each (default: 8)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn, of which the median counts (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results to FILE")
    arguments = parser.parse_args(argv)
    if arguments.jobs <= LOADING or arguments.rounds < 1:
        parser.error(f"--jobs, --rounds: expected more than {LOADING} and 1 or more, got {arguments.jobs} and {arguments.rounds}")
    return arguments


def measure(models: Path, jobs: int, rounds: int, say: Callable[[str], None] = lambda line: None) -> dict:
    """Medians by way: cpu_s and wall_s of a whole run, and what a job takes in addition to a run of LOADING jobs, in which models are loaded."""
    with tempfile.TemporaryDirectory(prefix="memo-farm-") as folder:
        place = Path(folder)
        manifests = {count: write_jobs(place, count) for count in (LOADING, jobs)}
        spent = {way: {count: [] for count in manifests} for way in WAYS}
        for _ in range(rounds):
            for count, manifest in manifests.items():
                for way in WAYS:
                    spent[way][count].append(spend(way, models, manifest, place / "videos"))
                    cpu, wall = spent[way][count][-1]
                    say(f"{way}, {counted(count, 'job')}: {cpu:.1f} CPU s, {wall:.1f} s")
    entry = {"jobs": jobs, "rounds": rounds, "seconds": SECONDS, "size": SIZE, "steps": STEPS, "cpus": os.cpu_count(), "ways": {}}
    for way, runs in spent.items():
        cpu, wall = ({count: median(each[kind] for each in found) for count, found in runs.items()} for kind in (0, 1))
        entry["ways"][way] = {"cpu_s": cpu[jobs], "wall_s": wall[jobs], "cpu_s_per_job": (cpu[jobs] - cpu[LOADING]) / (jobs - LOADING)}
    return entry


def write_jobs(folder: Path, count: int) -> Path:
    """A manifest of jobs that share a portrait, each with a voice of its own."""
    shutil.copy(ROOT / "assets" / "cartoon.png", folder / "portrait.png")
    with wave.open(str(ROOT / "assets" / "cartoon.wav")) as file:
        parameters, sound = file.getparams(), np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    lines = []
    for number in range(count):
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setparams(parameters)
            start = number * len(sound) // (2 * count) // parameters.nchannels * parameters.nchannels
            file.writeframes(sound[start : start + int(SECONDS * parameters.framerate) * parameters.nchannels].tobytes())
        settings = {"width": SIZE, "height": SIZE, "steps": STEPS, "guidance_scale": 1.0, "separate": False, "emotion": EMOTIONS[0]}
        lines.append({"image": "portrait.png", "audio": f"{number}.wav", "output": f"{number}.mp4", "allow_no_face": True, **settings})
    manifest = folder / f"{count}.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return manifest


def spend(way: str, models: Path, manifest: Path, videos: Path) -> tuple[float, float]:
    """CPU seconds and seconds of a process, and of those that it starts, that makes the jobs of ``manifest``. Raises ValueError if it fails."""
    shutil.rmtree(videos, ignore_errors=True)
    here = [sys.executable, "-m", __name__, str(manifest), str(videos), str(models)]
    farm = [
        sys.executable,
        "scripts/render.py",
        str(manifest),
        "--output",
        str(videos),
        "--models",
        str(models),
        "--device",
        "cpu",
        "--workers",
        way[0],
    ]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run = subprocess.run(
        here if way == WAYS[0] else farm, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        raise ValueError(f"{way}: {run.stderr.strip()[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - began


def render_alone(manifest: Path, videos: Path, models: Path) -> None:
    """The jobs of ``manifest`` by the pipeline and nothing else, one after the other."""
    videos.mkdir(parents=True)
    pipeline, portraits = MemoPipeline.from_models(models), {}
    for _, job in read_manifest(manifest, {}):
        assert isinstance(job, Job), "write_jobs wrote it"
        size = (job.width, job.height)
        if job.image not in portraits:
            portraits[job.image] = pipeline.portrait(job.image, size, job.allow_no_face, crop=False)
        sound, audio = pipeline.voice(job.audio, separate=False)
        portrait, face = portraits[job.image]
        conditioning = Conditioning(portrait, face, audio, pipeline.emotion(job.emotion, sound), sound)
        pipeline.sample(conditioning, job.settings).save(videos / job.output)


def report(entry: dict) -> str:
    """Markdown."""
    alone = entry["ways"][WAYS[0]]
    lines = [f"{entry['jobs']} videos of {entry['seconds']:g} s, {entry['size']}x{entry['size']}, {entry['steps']} steps; {entry['cpus']} CPUs", ""]
    lines += ["| way | CPU s | s | CPU s per further job | more than the pipeline | jobs per minute |", "| --- | --- | --- | --- | --- | --- |"]
    for way, each in entry["ways"].items():
        more, rate = each["cpu_s_per_job"] / alone["cpu_s_per_job"] - 1, entry["jobs"] * 60 / each["wall_s"]
        lines.append(f"| {way} | {each['cpu_s']:.1f} | {each['wall_s']:.1f} | {each['cpu_s_per_job']:.2f} | {more:+.1%} | {rate:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    render_alone(*map(Path, sys.argv[1:4]))
