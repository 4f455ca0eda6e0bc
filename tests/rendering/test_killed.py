"""render.py on forty jobs, four of them bad, killed ten times and continued: the files of an uninterrupted run, none made twice."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from memo_modules.rendering.folder import DONE, FAILED
from scripts import render
from tests.helpers.graphs import PORTRAIT, write_wav

JOBS, BAD, KILLS, WORKERS = 40, 4, 10, 2


@pytest.fixture
def manifest(tmp_path) -> Path:
    shutil.copy(PORTRAIT, tmp_path / "me.jpg")
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", 4000 + 8000 * number, 16000)  # one to three clips
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    lines = [{"image": "me.jpg", "audio": f"{number % 3}.wav", "output": f"{number % 5}/{number}.mp4", "seed": number} for number in range(JOBS)]
    for number in random.Random(0).sample(range(JOBS), BAD):
        lines[number]["audio"] = "bad.wav"
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def start(models: Path, manifest: Path, folder: Path) -> subprocess.Popen:
    settings = ("--width", "64", "--height", "64", "--steps", "1", "--guidance-scale", "1", "--emotion", "sad", "--separate", "false")
    arguments = (manifest, "--output", folder, "--models", models, "--device", "cpu", "--workers", WORKERS, "--json", *settings)
    command = [sys.executable, render.__file__, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def events_until(process: subprocess.Popen, clips: float) -> list[dict]:
    """What it says, until it has made so many clips and is killed with its workers, or ends."""
    events, made = [], 0
    assert process.stdout
    for line in process.stdout:
        events.append(json.loads(line))
        made += events[-1]["event"] == "clip"
        if made >= clips:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.wait()
    return events


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.mp4") if ".memo_render" not in path.parts}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_what_was_killed_ten_times_is_what_was_never_killed(tiny_models, manifest, tmp_path):
    events_until(start(tiny_models, manifest, tmp_path / "whole"), float("inf"))
    whole, draw = files(tmp_path / "whole"), random.Random(1)
    assert len(whole) == JOBS - BAD and len(lines(tmp_path / "whole" / FAILED)) == BAD
    events, broken = [], tmp_path / "broken"
    for _ in range(KILLS):
        events += events_until(start(tiny_models, manifest, broken), draw.uniform(1, 7))
    last = start(tiny_models, manifest, broken)
    events += events_until(last, float("inf"))
    assert last.returncode == 1 and events[-1]["jobs_done"] == JOBS - BAD and events[-1]["jobs_failed"] == BAD
    assert files(broken) == whole
    assert sorted(line["output"] for line in lines(broken / DONE)) == sorted(whole), "each has one line"
    assert len(lines(broken / FAILED)) == BAD
    clips = Counter((event["job"], event["clip"]) for event in events if event["event"] == "clip")
    assert sum(clips.values()) - len(clips) <= KILLS * WORKERS, "of a kill no more is made again than the clip that each worker was at"
