"""Videos of jobs on the tiny checkpoint: whole, once, and the same however often the work was stopped."""

import json
import os
import shutil
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from memo_modules.crew import running
from memo_modules.crew.processes import Processes
from memo_modules.errors import InputError, StorageError
from memo_modules.portrait.framing import crop_portrait
from memo_modules.portrait.pasting import paste
from memo_modules.rendering import folder as folders
from memo_modules.rendering import renderer as renderers
from memo_modules.rendering.folder import DONE, FAILED, INSIDE, ResultFolder
from memo_modules.rendering.jobs import Job
from memo_modules.rendering.renderer import Models, Renderer
from memo_modules.rendering.workers import Rendering, open_jobs, render_here, render_in_crew
from memo_modules.types import SamplerSettings
from tests.helpers.render_jobs import job

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """As a kill: nothing after it runs, but for what unwinds."""


@pytest.fixture
def results(tmp_path) -> ResultFolder:
    return ResultFolder(tmp_path / "out")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def render(pipeline, results: ResultFolder, *jobs: Job, say=lambda event: None) -> None:
    renderer = Renderer(pipeline, results, say)
    for each in jobs:
        key = each.key("models")
        with results.claimed(key) as claimed:
            assert claimed
            renderer.render(key, each)


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def test_the_file_is_that_of_the_pipeline(tiny_pipeline, results, inputs):
    made = job(inputs, "sub/x.mp4", "long.wav", codec="ffv1", seed=3)
    render(tiny_pipeline, results, made)
    settings = SamplerSettings(1, 1.0, 3)
    video = tiny_pipeline(inputs / "me.jpg", inputs / "long.wav", settings, size=(64, 64), emotion="happy", separate=False)
    expected = (video.frames().movedim(1, -1) * 255).round().int().numpy()
    assert np.array_equal(frames_of(results.root / "sub" / "x.mp4"), expected)
    [line] = lines(results.root / DONE)
    assert (line["output"], line["frames"], line["clips"], line["made"]) == ("sub/x.mp4", 38, 3, 3) and results.is_done(line["job"])
    assert not list((results.root / INSIDE).rglob("*.safetensors")) and not list((results.root / INSIDE / "claims").iterdir())


def test_a_portrait_and_a_voice_are_prepared_once(tiny_pipeline, results, inputs, monkeypatch):
    asked = []
    for name in ("portrait", "voice", "emotion"):
        make = getattr(type(tiny_pipeline), name)
        monkeypatch.setattr(type(tiny_pipeline), name, lambda self, *rest, name=name, make=make: asked.append(name) or make(self, *rest))
    shutil.copy(inputs / "short.wav", inputs / "same.wav")
    render(tiny_pipeline, results, job(inputs, "1.mp4"), job(inputs, "2.mp4", seed=1), job(inputs, "3.mp4", "same.wav", emotion="sad"))
    assert sorted(asked) == ["emotion", "emotion", "portrait", "voice"]
    render(tiny_pipeline, results, job(inputs, "4.mp4", timeline="0-0.1 angry, 0.1- sad"))
    assert frames_of(results.root / "4.mp4").shape == frames_of(results.root / "1.mp4").shape


def test_frames_go_back_into_the_photo(tiny_pipeline, results, inputs):
    """As those of MEMO Paste Back, at the photo's size."""
    settings = {"crop": True, "feather": 0.2, "codec": "ffv1"}
    with Image.open(inputs / "me.jpg") as opened:
        photo = opened.convert("RGB").resize((301, 200))
    photo.save(inputs / "small.png")
    pasted, square = (
        job(inputs, "pasted.mp4", image="small.png", paste_back=True, **settings),
        job(inputs, "square.mp4", image="small.png", **settings),
    )
    render(tiny_pipeline, results, pasted, square)
    frames, pixels = frames_of(results.root / "pasted.mp4"), torch.from_numpy(np.array(photo)).float() / 255
    crop = crop_portrait(tiny_pipeline.face_analyzer, pixels, size=64)[1]
    made = torch.from_numpy(frames_of(results.root / "square.mp4")).float() / 255
    expected = (paste(pixels[None], made, crop, 0.2, "border") * 255).round().int().numpy()
    assert frames.shape == (8, 200, 301, 3) and np.abs(frames - expected).max() <= 2
    with pytest.raises(InputError, match="paste_back: expected crop with it"):
        job(inputs, "x.mp4", paste_back=True).check()


def test_a_job_that_cannot_be_made_fails_alone_with_its_reason(tiny_pipeline, results, inputs):
    bad = [job(inputs, "1.mp4", "bad.wav"), job(inputs, "2.mp4", image="nobody.png"), job(inputs, "4.mp4", width=72, num_init_past_frames=16)]
    (results.root / "4.mp4").write_bytes(b"of somebody else")
    render(tiny_pipeline, results, *bad[:2], job(inputs, "3.mp4"), bad[2])
    failed = {line["output"]: line["reason"] for line in lines(results.root / FAILED)}
    assert failed.keys() == {"1.mp4", "2.mp4", "4.mp4"}
    assert "bad.wav" in failed["1.mp4"] and "expected a face" in failed["2.mp4"] and "is there already, and not of this job" in failed["4.mp4"]
    assert [line["output"] for line in lines(results.root / DONE)] == ["3.mp4"]
    assert (results.root / "4.mp4").read_bytes() == b"of somebody else"
    assert all(results.failure(each.key("models")) for each in bad)
    later = ResultFolder(results.root)
    assert all(later.failure(each.key("models")) is None for each in bad), "the next run tries again"
    (inputs / "bad.wav").write_bytes((inputs / "short.wav").read_bytes())
    (results.root / "4.mp4").unlink()
    render(tiny_pipeline, later, bad[2], bad[1])
    later.tidy()
    assert len(lines(results.root / FAILED)) == 2, "the last line of each"
    assert {line["output"] for line in lines(results.root / FAILED)} == {"1.mp4", "2.mp4"}


MOMENTS = ("first clip", "last clip", "removed", "line", *(pytest.param(each, marks=pytest.mark.slow) for each in ("begin", "announced", "moved")))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_job_that_was_killed_at_any_moment_is_made_once(tiny_pipeline, results, inputs, monkeypatch, moment):
    whole, stopped = job(inputs, "whole.mp4", "long.wav"), job(inputs, "stopped.mp4", "long.wav")
    render(tiny_pipeline, results, whole)
    clips, calls = [], []

    def dies(*arguments, **options):
        raise Killed

    def say(event):
        calls.append(event["event"])
        clips.extend([event["clip"]] if event["event"] == "clip" else [])
        if moment == "begin" or (moment, event.get("clip")) in (("first clip", 2), ("last clip", 3)):
            raise Killed  # while clip 2 is made, the first is on the disk

    with monkeypatch.context() as patch:
        if moment == "announced":
            announce = ResultFolder.announce
            patch.setattr(ResultFolder, "announce", lambda *rest, **facts: (announce(*rest, **facts), dies()))
        if moment == "moved":
            patch.setattr(renderers.journal.Journal, "remove", dies)
        if moment == "removed":
            patch.setattr(ResultFolder, "done", dies)
        if moment == "line":
            patch.setattr(folders._Lines, "add", dies)
        with pytest.raises(Killed):
            render(tiny_pipeline, results, stopped, say=say)
    again = ResultFolder(results.root)
    assert not again.is_done(stopped.key("models"))
    render(tiny_pipeline, again, stopped, say=lambda event: clips.extend([event["clip"]] if event["event"] == "clip" else []))
    assert clips == {"begin": [1, 2, 3], "first clip": [1, 2, 2, 3], "last clip": [1, 2, 3, 3]}.get(moment, [1, 2, 3]), "from the last clip"
    assert (results.root / "stopped.mp4").read_bytes() == (results.root / "whole.mp4").read_bytes()
    assert sorted(line["output"] for line in lines(results.root / DONE)) == ["stopped.mp4", "whole.mp4"]
    assert not list((results.root / INSIDE / "notes").iterdir()) and not list(again.unfinished.glob("*/clip-*"))


def test_a_job_is_claimed_by_one(results):
    other = ResultFolder(results.root)
    with results.claimed("a" * 64) as first, other.claimed("a" * 64) as second, other.claimed("b" * 64) as third:
        assert (first, second, third) == (True, False, True)
    with other.claimed("a" * 64) as later:
        assert later


def test_lines_of_several_processes_and_torn_ones(results):
    path = results.root / DONE
    path.write_bytes(b'{"job": "1", "output": "1.mp4"}\n{"job": "2", "out')
    (results.root / "1.mp4").touch()
    assert results.is_done("1") and not results.is_done("2")
    results.announce("3", Job(Path("a"), Path("b"), "1.mp4"), results.root / "1.mp4")
    results.done("3")
    assert results.is_done("3") and ResultFolder(results.root).is_done("3") and not results.is_done("2")
    (results.root / "1.mp4").unlink()
    assert not results.is_done("1"), "a file that is gone is made again"


def test_a_full_disk_ends_the_run_and_no_job(tiny_pipeline, results, inputs, monkeypatch):
    def full(*arguments, **options):
        raise StorageError("no room")

    monkeypatch.setattr(renderers, "sample_to_file", full)
    with pytest.raises(StorageError):
        render(tiny_pipeline, results, job(inputs, "1.mp4"))
    assert not (results.root / FAILED).exists()


def test_out_of_memory_continues_in_low_memory_mode_from_the_clip_it_was_at(tiny_pipeline, results, inputs, monkeypatch):
    sample, modes = type(tiny_pipeline).sample, []

    def short(self, conditioning, settings, mode, *others, **options):
        modes.append((mode, options["done"]))
        for number, clip in enumerate(sample(self, conditioning, settings, mode, *others, **options)):
            if mode != "low" and number == 1:
                raise torch.OutOfMemoryError
            yield clip

    render(tiny_pipeline, results, job(inputs, "plain.mp4", "long.wav"))
    monkeypatch.setattr(type(tiny_pipeline), "sample", short)
    render(tiny_pipeline, results, job(inputs, "short.mp4", "long.wav"))
    assert modes == [("auto", 0), ("low", 1)]
    assert np.abs(frames_of(results.root / "short.mp4") - frames_of(results.root / "plain.mp4")).max() <= 2


def test_workers_share_the_jobs_and_take_over_what_one_leaves(tiny_pipeline, results, inputs, monkeypatch):
    monkeypatch.setattr(Models, "load", lambda self, device: tiny_pipeline)
    monkeypatch.setattr(running, "POLL", 0.01)
    jobs = {each.key("m"): each for each in (job(inputs, f"{number}.mp4", seed=number) for number in range(4))}
    rendering = Rendering(results.root, results.since, Models(Path()), "cpu", 1)
    other, events = ResultFolder(results.root), []
    left = other.claimed(next(iter(jobs)))
    assert left.__enter__()  # as another machine that is at work on it
    freed = []

    def say(event):
        events.append(event)
        if event["event"] == "done" and len([each for each in events if each["event"] == "done"]) == 3:
            freed.append(left.__exit__(None, None, None))  # and ends without it

    render_here(rendering, open_jobs(jobs, results), say)
    done = [event["output"] for event in events if event["event"] == "done"]
    assert sorted(done[:3]) == ["1.mp4", "2.mp4", "3.mp4"] and done[3] == "0.mp4" and freed
    assert open_jobs(jobs, results) == []


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_a_job_that_kills_three_fails(tiny_models, results, inputs):
    jobs = {each.key("m"): each for each in (job(inputs, f"{number}.mp4", seed=number) for number in range(3))}
    crew = Processes([Rendering(results.root, results.since, Models(tiny_models, "tiny"), "cpu", 1)])
    events = []

    def say(event):
        events.append(event)
        if event["event"] == "started" and event["output"] == "1.mp4":
            os.kill(crew.processes[event["worker"]].pid, signal.SIGKILL)

    render_in_crew(crew, 2, open_jobs(jobs, results), results, say)
    kinds = [(event["event"], event.get("output")) for event in events]
    assert kinds.count(("started", "1.mp4")) == 3 and ("failed", "1.mp4") in kinds
    assert sorted(line["output"] for line in lines(results.root / DONE)) == ["0.mp4", "2.mp4"]
    [failed] = lines(results.root / FAILED)
    assert "3 workers died on it (exit code -9)" in failed["reason"]


def test_what_is_no_model_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(InputError.__mro__[1], match="memo"):
        Models(tmp_path).digest()
