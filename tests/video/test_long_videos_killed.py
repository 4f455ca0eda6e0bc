"""A long video whose process is killed, or whose disk is full, again and again: the file is that of one run."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

CHILD = Path(__file__).resolve().parents[1] / "helpers" / "long_video_child.py"
CLIPS, KILLS = 12, 20
PHASES = ("sampling", "decoding", "encoding", "journal")
pytestmark = pytest.mark.slow


def start(models: Path, folder: Path, *sizes: int) -> subprocess.Popen:
    command = [sys.executable, CHILD, models, folder / "journals", folder / "video.mp4", *map(str, sizes or (CLIPS,))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHILD.parent)


def finish(process: subprocess.Popen) -> int:
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 3), errors
    return process.returncode


def clips_done(line: str) -> int:
    word, number = line.split()
    assert word == "clips", line
    return int(number)


@pytest.fixture(scope="module")
def uninterrupted(tiny_models, tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert finish(start(tiny_models, folder)) == 0
    assert [path.name for path in folder.iterdir() if path.name != "journals"] == ["video.mp4"]
    return (folder / "video.mp4").read_bytes()


def test_killed_at_any_moment_it_continues(tiny_models, uninterrupted, tmp_path):
    choose, killed, done = random.Random(0), Counter(), 0
    for kill in range(KILLS):
        phase = PHASES[kill % len(PHASES)]
        process = start(tiny_models, tmp_path)
        found = clips_done(process.stdout.readline())
        assert found >= done, "a clip that was done is lost"
        done = found
        for line in process.stdout:
            if line.strip() == phase:
                break
        time.sleep(choose.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        rest = [line.strip() for line in process.stdout]
        assert process.wait() == -signal.SIGKILL, "killed too late: raise CLIPS"
        killed[rest[-1] if rest else phase] += 1
    print(f"killed {dict(killed)}, at last with {done} of {CLIPS} clips done")
    process = start(tiny_models, tmp_path)
    assert clips_done(process.stdout.readline()) >= done
    assert finish(process) == 0
    assert (tmp_path / "video.mp4").read_bytes() == uninterrupted
    assert not any((tmp_path / "journals").iterdir())
    assert killed.keys() >= set(PHASES)


def test_killed_while_the_parts_are_joined_it_continues(tiny_models, uninterrupted, tmp_path):
    process = start(tiny_models, tmp_path)
    while process.stdout.readline().strip() != "joining":
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process = start(tiny_models, tmp_path)
    assert clips_done(process.stdout.readline()) == CLIPS
    assert finish(process) == 0
    assert (tmp_path / "video.mp4").read_bytes() == uninterrupted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journals", "video.mp4"]


def test_pasted_into_24_megapixels_it_takes_little_memory_and_survives_a_kill(tiny_models, tmp_path):
    pytest.importorskip("resource")
    files = []
    for name, kills in (("once", 0), ("killed", 2)):
        folder = tmp_path / name
        folder.mkdir()
        for kill in range(kills):
            process = start(tiny_models, folder, 4, 6000)
            assert clips_done(process.stdout.readline()) == kill
            encoding = (line for line in process.stdout if line.strip() == "encoding")
            next(encoding), next(encoding)  # the first is done
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        process = start(tiny_models, folder, 4, 6000)
        said, errors = process.communicate()
        assert process.returncode == 0, errors
        assert int(said.split()[-1]) < 2.5e9
        files.append((folder / "video.mp4").read_bytes())
    assert files[0] == files[1]


def test_a_disk_that_fills_up_costs_nothing_but_the_clip_under_way(tiny_models, uninterrupted, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    sizes = [420, 470, 560, 8000]  # KB; the first has room for all that is sure to be written, and not for the video
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if os.name == "nt" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        done = []
        for size in sizes:
            subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
            process = start(tiny_models, disk)
            done.append(clips_done(process.stdout.readline()))
            assert (finish(process) == 3) == (size < sizes[-1]), f"{done} clips before, {size} KB"
            assert not list(disk.rglob("*.part"))
        assert done == sorted(done) and 0 < done[1] < CLIPS
        assert (disk / "video.mp4").read_bytes() == uninterrupted
    finally:
        subprocess.run(["umount", disk], check=True)
