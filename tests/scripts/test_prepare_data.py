"""scripts/prepare_data.py as a user starts it: on a folder with bad videos in it, killed, on several workers and on Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from scripts import prepare_data
from scripts.entry import run
from tests.helpers.video_files import ramp, record
from tools.small_world import FPS, Clip, character, make_clip
from tools.small_world.scenery import backdrop
from tools.small_world.videos import write_video

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "prepare_data.py"
SMALL = ROOT / "assets" / "models"  # its detector knows the faces of the small world
SECONDS = 1.6

REASONS = {
    "no_face.mp4": "no face: none was found",
    "two_faces.mp4": "2 faces: ",
    "no_audio.mp4": "no sound: the file has no audio stream",
    "truncated.mp4": "it is cut off: the index at its end is missing",
    "unreadable.mp4": "it is not a video that can be read",
}


def call(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """Exit status and output of the script, called in this process."""
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run("prepare_data.py", prepare_data.main)
    captured = capsys.readouterr()
    return end.value.code, captured.out + captured.err


def test_durations_of_a_folder(tmp_path, monkeypatch, capsys):
    for name in ("a.mp4", "b.mkv"):
        record(tmp_path / name)
    (tmp_path / "c.mp4").write_text("not a video")
    status, said = call(monkeypatch, capsys, tmp_path, "--durations")
    assert status == 0 and "2 videos, 24 frames, 0.800 s (0 h 0 min 0.800 s)" in said and "c.mp4: it is not a video that can be read" in said


def test_what_was_done_is_said(tiny_models, tmp_path, monkeypatch, capsys, one_thread):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "good.mp4", make_clip(1, SECONDS), 64)
    (tmp_path / "videos" / "bad.mp4").write_text("not a video")
    arguments = (tmp_path / "videos", tmp_path / "out", "--models", tiny_models, "--checkpoint", "tiny", "--without-separation")
    status, said = call(monkeypatch, capsys, *arguments)
    assert status == 0 and "vocal_separator: none" in said and "metadata.jsonl: 1 videos, 1 of them new." in said
    assert f"1 cannot be used, see {tmp_path / 'out' / 'failed.jsonl'}:\n  {tmp_path / 'videos' / 'bad.mp4'}: it is not a video" in said
    status, said = call(monkeypatch, capsys, *arguments[:-1])
    assert status == 1 and "was prepared with other vocal_separator" in said
    status, said = call(monkeypatch, capsys, *arguments, "--emotion2vec", "none such")
    assert status == 1 and "'none such' is not among the models that were found" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["videos"], "expected OUTPUT and --models"),
        (["videos", "out", "--models", "nowhere"], "--models: nowhere is not a folder"),
        (["videos", "out", "--models", ".", "--checkpoint", "none"], "--checkpoint: there is no memo/none"),
        (["videos", "out", "--models", ".", "--workers", "0"], "--workers: expected 1 to 1024, got 0"),
    ],
)
def test_arguments_that_do_not_fit(monkeypatch, capsys, arguments, message):
    status, said = call(monkeypatch, capsys, *arguments)
    assert status == 2 and message in said


@dataclass(frozen=True)
class Staged:
    """Other pictures, uint8 (frames size size 3), to the sound of a clip."""

    clip: Clip
    pictures: np.ndarray

    @property
    def audio(self) -> np.ndarray:
        return self.clip.audio

    def frames(self, size: int) -> np.ndarray:
        return self.pictures


def side_by_side(first: Clip, second: Clip, size: int) -> np.ndarray:
    """Two characters at half the size, next to each other."""
    both = np.concatenate((first.frames(size // 2), second.frames(size // 2)), axis=2)
    return np.pad(both, ((0, 0), (size // 4, size // 4), (0, 0), (0, 0)), mode="edge")


def without_sound(source: Path, target: Path) -> None:
    with av.open(str(source)) as whole, av.open(str(target), "w") as mute:
        pictures = mute.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                mute.mux(packet)


def write_fifty(folder: Path, size: int = 128) -> None:
    """45 good clips, some with the same names in different folders, and the five of REASONS."""
    clips = [make_clip(7_000_000 + i, SECONDS) for i in range(47)]
    for i, clip in enumerate(clips[:45]):
        write_video(folder / f"part_{i % 3}" / f"clip_{i // 3:02d}.mp4", clip, size)
    empty = (backdrop(character(5), size) * 255).astype(np.uint8)
    write_video(folder / "no_face.mp4", Staged(clips[45], np.repeat(empty[None], round(SECONDS * FPS), axis=0)), size)
    write_video(folder / "two_faces.mp4", Staged(clips[45], side_by_side(*clips[45:], size)), size)
    good = folder / "part_0" / "clip_00.mp4"
    without_sound(good, folder / "no_audio.mp4")
    (folder / "truncated.mp4").write_bytes(good.read_bytes()[: good.stat().st_size * 6 // 10])
    (folder / "unreadable.mp4").write_bytes(ramp(4000).tobytes())


@pytest.fixture(scope="module")
def fifty(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fifty")
    write_fifty(folder)
    return folder


def start(videos: Path, output: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, SCRIPT, videos, output, "--models", SMALL, "--checkpoint", "small", *arguments]
    # after a shell's & or nohup the tests ignore Ctrl-C, which a child would inherit
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **heard)


def finish(process: subprocess.Popen) -> str:
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(fifty, tmp_path_factory) -> dict[str, bytes]:
    """What one worker makes of the fifty."""
    output = tmp_path_factory.mktemp("prepared")
    assert "45 videos, 45 of them new." in finish(start(fifty, output))
    return files_in(output)


@pytest.mark.slow
def test_forty_five_of_fifty_are_prepared_and_five_are_reported(fifty, prepared):
    lines = [json.loads(line) for line in prepared["metadata.jsonl"].splitlines()]
    assert len({line["video"] for line in lines}) == len(lines) == 45
    failed = {Path(line["video"]).name: line["reason"] for line in map(json.loads, prepared["failed.jsonl"].splitlines())}
    assert failed.keys() == REASONS.keys()
    for name, reason in failed.items():
        assert reason.startswith(REASONS[name]), name
    assert len(prepared) == 45 * 3 + 3


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--workers", "2")])
def test_killed_and_restarted_no_line_is_lost_or_doubled(fifty, prepared, tmp_path, arguments):
    for kill_at, how in ((1, signal.SIGKILL), (9, signal.SIGKILL), (20, signal.SIGINT), (31, signal.SIGKILL)):
        process = start(fifty, tmp_path, *arguments)
        while process.poll() is None and count_lines(tmp_path) < kill_at:
            time.sleep(0.01)
        process.send_signal(how)
        said, _ = process.communicate()
        assert process.returncode == (130 if how == signal.SIGINT else -how), said
        assert kill_at <= count_lines(tmp_path) < 45
    assert "45 videos" in finish(start(fifty, tmp_path, *arguments))
    assert files_in(tmp_path) == prepared


def count_lines(output: Path) -> int:
    path = output / "metadata.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_two_ray_workers_write_the_same_files_as_one(fifty, prepared, tmp_path):
    pytest.importorskip("ray")
    assert "45 videos" in finish(start(fifty, tmp_path, "--ray", "local", "--workers", "2"))
    assert files_in(tmp_path) == prepared


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_video_prepared_again(fifty, prepared, tmp_path):
    process = start(fifty, tmp_path, "--workers", "2")
    while process.poll() is None and count_lines(tmp_path) < 5:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert "45 videos, 45 of them new." in finish(process)
    assert files_in(tmp_path) == prepared
