"""Data preparation: a video's features are what inference would make of it, and a folder of them survives anything."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_modules.audio.emotion import detect_emotion
from memo_modules.audio.features import encode_audio
from memo_modules.audio.io import decode
from memo_modules.crew.running import Crew, Gone, Ready
from memo_modules.errors import InputError, MemoError
from memo_modules.portrait.face import DETECTOR_FILE, FaceAnalyzer, embed_face
from memo_modules.preparation.folder import FAILED, METADATA, RECORD, prepare_folder
from memo_modules.preparation.looking import Looks, check_face
from memo_modules.preparation.preparer import Job, ModelPlaces, Outcome, Preparer, Settings
from memo_modules.preparation.tensor_files import read_rows, write_tensor
from memo_modules.preparation.videos import read_video
from memo_modules.preparation.workers import prepare_here, prepare_in_crew
from memo_modules.store.obtain import find_model
from memo_modules.training.dataset import ClipDataset, read_metadata
from memo_modules.types import frame_labels
from memo_modules.video.reading import read_frames
from tests.helpers.video_files import RATE, ramp, record
from tools.small_world import make_clip
from tools.small_world.videos import write_video
from tools.tiny_onnx import TWO_FACES, write_detector

FPS = Fraction(30)
FRAMES = 48


@pytest.fixture(scope="module")
def places(tiny_models) -> ModelPlaces:
    roles = ("face_analysis", "audio_encoder", "emotion2vec", "emotion_classifier", "vocal_separator")
    return ModelPlaces(**{role: find_model(role, tiny_models) for role in roles})


@pytest.fixture(scope="module")
def preparer(places, one_thread) -> Preparer:
    return Preparer(Settings(places))


class Dimmed:
    """A clip whose first pictures are black."""

    def __init__(self, clip, dark: int):
        self.clip, self.dark, self.audio = clip, dark, clip.audio

    def frames(self, size: int) -> np.ndarray:
        frames = self.clip.frames(size)
        frames[: self.dark] = 0
        return frames


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Videos: whole.mp4, late.mp4, which fades in, and dark.mp4."""
    folder, clip = tmp_path_factory.mktemp("world"), make_clip(3, FRAMES / 30)
    for name, dark in (("whole", 0), ("late", 8), ("dark", FRAMES)):
        write_video(folder / f"{name}.mp4", Dimmed(clip, dark), 64)
    return folder


def features_of(preparer: Preparer, path: Path) -> tuple[dict[str, torch.Tensor], Fraction]:
    """What a video is prepared as, and its rate; raises the reason why it is not."""
    looks = Looks(preparer.face_analyzer)
    video = read_video(path, looks)
    face, _ = check_face(looks.seen, video.size, crop=False)
    return {"face_emb": face, **preparer.features(video, video.fps)}, video.fps


def test_features_are_those_of_inference(world, preparer, monkeypatch):
    heard = []

    def listening(encoder, classifier, audio, device):
        heard.append(audio.waveform)
        return detect_emotion(encoder, classifier, audio, device)

    monkeypatch.setattr("memo_modules.preparation.preparer.detect_emotion", listening)
    features, fps = features_of(preparer, world / "whole.mp4")
    voice = preparer.vocal_separator.separate(decode(world / "whole.mp4"))
    mood = detect_emotion(preparer.emotion2vec, preparer.emotion_classifier, voice)
    picture = read_frames(world / "whole.mp4", [0])[0].permute(1, 2, 0) / 255
    assert fps == FPS
    assert torch.equal(features["audio_emb"], encode_audio(preparer.audio_encoder, voice, FPS).hidden_states)
    assert features["audio_emotion"].tolist() == frame_labels(mood, FRAMES, FPS, "exact") and features["audio_emotion"].dtype == torch.int32
    assert torch.equal(heard[0], voice.waveform)  # as in training: the voice, not the sound as it is
    assert torch.equal(features["face_emb"], embed_face(preparer.face_analyzer, picture).embedding[0])


def test_without_separation_the_sound_is_heard_as_it_is(world, preparer, monkeypatch):
    separated, _ = features_of(preparer, world / "whole.mp4")
    monkeypatch.setattr(preparer, "vocal_separator", None)
    heard, _ = features_of(preparer, world / "whole.mp4")
    assert torch.equal(heard["audio_emb"], encode_audio(preparer.audio_encoder, decode(world / "whole.mp4"), FPS).hidden_states)
    assert not torch.equal(heard["audio_emb"], separated["audio_emb"])


def test_a_face_is_waited_for_and_must_be_the_only_one(world, preparer, places, tmp_path, monkeypatch):
    late, _ = features_of(preparer, world / "late.mp4")
    picture = read_frames(world / "late.mp4", [15])[0].permute(1, 2, 0) / 255
    assert torch.equal(late["face_emb"], embed_face(preparer.face_analyzer, picture).embedding[0])
    with pytest.raises(InputError, match="^no face: none was found in 5 pictures, looked for twice a second"):
        features_of(preparer, world / "dark.mp4")
    shutil.copytree(places.face_analysis, tmp_path / "two")
    write_detector(tmp_path / "two" / DETECTOR_FILE, TWO_FACES)
    monkeypatch.setattr(preparer, "face_analyzer", FaceAnalyzer.load(tmp_path / "two"))
    with pytest.raises(InputError, match="^2 faces: "):
        features_of(preparer, world / "whole.mp4")


def test_no_error_over_a_video_ends_the_work_but_a_full_disk_does(world, preparer, tmp_path, monkeypatch):
    job = Job(world / "whole.mp4", "whole.mp4", "whole.mp4", tmp_path)
    (tmp_path / "audio_emb").write_text("no folder")
    with pytest.raises(MemoError, match=r"the files of .*whole.mp4 cannot be written"):
        preparer.prepare(job)

    def crash(picture):
        raise RuntimeError("some decoder's")

    monkeypatch.setattr(preparer.face_analyzer, "detect", crash)
    assert preparer.prepare(job).reason == "unexpected RuntimeError: some decoder's"


def test_a_video_of_another_rate_is_rewritten_when_one_is_asked_for(preparer, tmp_path, monkeypatch):
    source = record(tmp_path / "a.mkv", [Fraction(k, 25) for k in range(25) if k != 7], ramp(RATE))
    job = Job(source, "a.mkv", "a.mkv", tmp_path)
    assert preparer.prepare(job).reason.startswith("its frame rate varies")
    monkeypatch.setattr(preparer, "settings", replace(preparer.settings, fps=FPS))
    outcome = preparer.prepare(job)
    assert outcome.fps == FPS and outcome.entries == (job.entry | {"video": "videos/a.mkv.mp4"},)
    assert read_rows(tmp_path / job.entry["audio_emb"], "audio_emb").shape[0] == 30
    greys = read_frames(tmp_path / "videos" / "a.mkv.mp4", range(30)).float().mean(dim=(1, 2, 3)) / 10
    shown = [k for k in range(25) if k != 7]  # frame k of the file is a grey of 10k, shown at shown[k] / 25
    nearest = [min(range(24), key=lambda k: abs(Fraction(shown[k], 25) - Fraction(i, 30))) for i in range(30)]
    assert [round(grey) for grey in greys.tolist()] == nearest


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_prepared_once_and_trains(world, places, tmp_path, one_thread):
    for name in ("a/clip.mp4", "b/clip.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        shutil.copy(world / "whole.mp4", tmp_path / "videos" / name)
    shutil.copy(world / "dark.mp4", tmp_path / "videos")
    (tmp_path / "videos" / "text.mp4").write_text("not a video")
    seen = []
    run = partial(prepare_here, Settings(places))
    report = prepare_folder(tmp_path / "videos", tmp_path / "out", {}, run, lambda done, total, report: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] and list(report.prepared.values()) == [FPS, FPS]

    first = files_in(tmp_path / "out")
    names = [f"{name}/{clip}/clip.mp4.safetensors" for name in ("face_emb", "audio_emb", "audio_emotion") for clip in "ab"]
    assert set(first) == {*names, METADATA, FAILED, RECORD}
    lines = [json.loads(line) for line in first[METADATA].splitlines()]
    assert [line["video"] for line in lines] == [str(tmp_path / f"videos/{clip}/clip.mp4") for clip in "ab"]
    failed = {Path(line["video"]).name: line["reason"] for line in map(json.loads, first[FAILED].splitlines())}
    assert failed.keys() == {"dark.mp4", "text.mp4"} and failed["dark.mp4"].startswith("no face")

    videos = read_metadata([tmp_path / "out" / METADATA])
    assert [video.frames for video in videos] == [FRAMES, FRAMES]
    assert ClipDataset(videos, 64, 64)[0]["audio_emb"].shape[:2] == (16, 5)
    os.remove(tmp_path / "videos" / "dark.mp4")
    again = prepare_folder(tmp_path / "videos", tmp_path / "out", {}, run)
    second = files_in(tmp_path / "out")
    assert (again.earlier, len(again.prepared), len(again.failed)) == (2, 0, 1)
    assert {name for name in first if second[name] != first[name]} == {FAILED}


# The folder, with a Run that writes small files instead of features


def prepare_quickly(jobs: list[Job]) -> Iterator[Outcome]:
    for job in reversed(jobs):
        for field in ("face_emb", "audio_emb", "audio_emotion"):
            write_tensor(job.output / job.entry[field], field, torch.tensor([len(job.name)]))
        yield Outcome(job, (job.entry,), FPS)


def make_videos(folder: Path) -> Path:
    for name in ("b.mp4", "a.mp4", "sub/a.mp4", "sub/a.mkv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def whole(tmp_path) -> tuple[Path, Path, dict[str, bytes]]:
    """Videos, where they are prepared, and what is then there."""
    videos, output = make_videos(tmp_path / "videos"), tmp_path / "out"
    prepare_folder(videos, output, {}, prepare_quickly)
    return videos, output, files_in(output)


def test_lines_are_in_order_of_names_which_no_two_videos_share(whole):
    _, output, files = whole
    lines = [json.loads(line) for line in files[METADATA].splitlines()]
    assert [line["face_emb"] for line in lines] == [f"face_emb/{name}.safetensors" for name in ("a.mp4", "b.mp4", "sub/a.mkv", "sub/a.mp4")]
    assert all(line.keys() == {"video", "face_emb", "audio_emb", "audio_emotion"} for line in lines)
    assert files[FAILED] == b"" and len(files) == 4 * 3 + 3


@pytest.mark.parametrize("stop", range(4))
def test_whenever_it_is_stopped_it_continues_where_it_was(whole, tmp_path, stop):
    videos, _, expected = whole

    def stopped(jobs):
        outcomes = prepare_quickly(jobs)
        for _ in range(stop):
            yield next(outcomes)
        next(outcomes)  # its files are there, its line is not
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_folder(videos, tmp_path / "other", {}, stopped)
    assert len(files_in(tmp_path / "other")[METADATA].splitlines()) == stop
    report = prepare_folder(videos, tmp_path / "other", {}, prepare_quickly)
    assert report.earlier == stop and len(report.prepared) == 4 - stop
    assert files_in(tmp_path / "other") == expected


def test_an_interrupt_while_a_line_is_written_does_not_lose_it(whole, tmp_path, monkeypatch):
    videos, _, expected = whole
    metadata, real, calls = tmp_path / "other" / METADATA, os.fsync, []

    def interrupted(file):
        real(file)
        if not calls and metadata.exists() and metadata.read_bytes().count(b"\n") == 2:
            calls.append(file)
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(videos, tmp_path / "other", {}, prepare_quickly)
    assert metadata.read_bytes().count(b"\n") == 2
    prepare_folder(videos, tmp_path / "other", {}, prepare_quickly)
    assert files_in(tmp_path / "other") == expected


@pytest.mark.parametrize(
    ("damage", "again"),
    [
        (lambda lines: b"".join(lines)[:-1], 0),
        (lambda lines: b"".join(lines)[:-9], 1),
        (lambda lines: b"".join(lines[:2]) + lines[2][:20], 2),
        (lambda lines: b"".join(lines[:2]) + lines[2][:20] + b"\n" + lines[3], 1),
        (lambda lines: b"".join([*lines, lines[1], lines[1]]), 0),
        (lambda lines: b'{"video": 1}\n[]\n\xff\n' + b"".join(lines[1:]), 1),
        (lambda lines: b"", 4),
    ],
)
def test_no_damage_loses_or_doubles_a_line(whole, damage, again):
    videos, output, expected = whole
    (output / METADATA).write_bytes(damage(expected[METADATA].splitlines(keepends=True)))
    report = prepare_folder(videos, output, {}, prepare_quickly)
    assert len(report.prepared) == again and files_in(output) == expected


def test_a_line_whose_files_are_not_there_and_what_killed_writers_left_are_cleared_away(whole):
    videos, output, expected = whole
    os.remove(output / "audio_emb" / "sub" / "a.mkv.safetensors")
    (output / "face_emb" / "b.mp4.safetensors.01234567.part").touch()
    (output / f"{METADATA}.01234567.part").touch()
    report = prepare_folder(videos, output, {}, prepare_quickly)
    assert list(report.prepared) == [str(videos / "sub" / "a.mkv")] and files_in(output) == expected


def test_failures_are_those_of_the_last_run(whole):
    videos, output, expected = whole
    os.remove(output / METADATA)

    def failing(jobs):
        yield Outcome(jobs[1], reason="no face")
        yield from prepare_quickly([job for job in jobs if job is not jobs[1]])

    prepare_folder(videos, output, {}, failing)
    assert json.loads((output / FAILED).read_text()) == {"video": str(videos / "b.mp4"), "reason": "no face"}
    assert b"b.mp4" not in (output / METADATA).read_bytes()
    prepare_folder(videos, output, {}, prepare_quickly)
    assert files_in(output) == expected


def test_paths_are_relative_where_the_videos_lie_below_the_output(tmp_path):
    prepare_folder(make_videos(tmp_path / "set" / "videos"), tmp_path / "set", {}, prepare_quickly)
    moved = (tmp_path / "set").rename(tmp_path / "moved")
    assert json.loads((moved / METADATA).read_text().splitlines()[0])["video"] == "videos/a.mp4"
    assert prepare_folder(moved / "videos", moved, {}, prepare_quickly).earlier == 4


def test_a_folder_of_other_videos_or_models_or_in_use_is_refused(whole, tmp_path):
    videos, output, _ = whole
    with pytest.raises(InputError, match="prepared with other audio_encoder; audio_encoder was None, now it is abc"):
        prepare_folder(videos, output, {"audio_encoder": "abc"}, prepare_quickly)
    with pytest.raises(InputError, match="prepared with other videos"):
        prepare_folder(make_videos(tmp_path / "others"), output, {}, prepare_quickly)

    def again(jobs):
        prepare_folder(videos, output, {}, prepare_quickly)
        yield

    os.remove(output / METADATA)
    with pytest.raises(InputError, match="another process is preparing videos in"):
        prepare_folder(videos, output, {}, again)


class Gives(Crew):
    """One worker that answers at once, and dies on a job named dies."""

    def __init__(self):
        self.said = []

    def hire(self, place):
        self.said.append((place, Ready()))

    def ask(self, place, job):
        self.said.append((place, Gone("exit code -9") if job == "dies" else Outcome(job, ({},), FPS)))

    def messages(self, seconds):
        said, self.said = self.said, []
        return said

    def close(self):
        pass


def test_a_video_on_which_workers_die_fails_alone():
    outcomes = {outcome.job: outcome.reason for outcome in prepare_in_crew(Gives, 1, ["a", "dies", "b"])}
    assert outcomes["a"] is outcomes["b"] is None and "workers died on it, one after the other (exit code -9)" in outcomes["dies"]
    assert list(prepare_in_crew(lambda: pytest.fail("nothing is to be done"), 1, [])) == []


def test_what_a_file_is_written_at_is_in_its_header(world, preparer, tmp_path):
    from safetensors import safe_open

    job = Job(world / "whole.mp4", "whole.mp4", "whole.mp4", tmp_path)
    assert preparer.prepare(job) == Outcome(job, (job.entry,), FPS)
    with safe_open(tmp_path / job.entry["audio_emb"], "pt") as file:
        assert file.metadata() == {"fps": "30"}
    assert read_rows(tmp_path / job.entry["audio_emotion"], "audio_emotion").shape == (FRAMES,)
