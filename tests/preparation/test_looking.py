"""What training will look at is what preparation checks, over the whole video: one face, one person, in the square, large enough."""

import json
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_modules.errors import InputError
from memo_modules.preparation.folder import METADATA, prepare_folder
from memo_modules.preparation.looking import Look, check_cuts, check_face, cuts
from memo_modules.preparation.preparer import CROPPED, Job, ModelPlaces, Preparer, Settings
from memo_modules.preparation.splitting import pauses, spans
from memo_modules.preparation.videos import Video
from memo_modules.store.obtain import find_model
from memo_modules.training.dataset import ClipDataset, ClipLayout, read_metadata, training_pixels
from memo_modules.types import Audio, Crop
from memo_modules.video.reading import read_frames
from tests.helpers.scenes import placed, two_people, write_scene
from tools.small_world import make_clip

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "assets" / "models"
WIDE = (640, 360)
ANN, BOB = torch.eye(2, 512)


def look(second: float, *boxes, who=ANN, turn=0) -> Look:
    return Look(round(second * 30), Fraction(second).limit_denominator(10), boxes, who if len(boxes) == 1 else None, turn)


def box(x: float, y: float, side: float) -> tuple[float, float, float, float]:
    """Around x y."""
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


MIDDLE, LEFT, SMALL_FACE = box(320, 180, 150), box(80, 180, 150), box(320, 180, 60)


@pytest.mark.parametrize(
    ("looks", "reason"),
    [
        ([look(0, MIDDLE), look(0.5, MIDDLE)], None),
        ([look(0), look(0.5, MIDDLE), look(1, MIDDLE), look(1.5)], None),
        ([look(0, MIDDLE), look(0.5, MIDDLE, who=BOB), look(1, MIDDLE)], None),
        ([look(0), look(0.5)], "^no face: none was found in 2 pictures"),
        ([look(0, MIDDLE), look(0.5), look(1), look(1.5, MIDDLE)], "^no face from 0.5 s to 1.0 s at least"),
        ([look(0, MIDDLE), look(0.5, MIDDLE, LEFT)], "^2 faces: a picture shows 2, expected exactly one, at 0.5 s"),
        ([look(0, MIDDLE), look(0.5, MIDDLE, who=BOB), look(1, MIDDLE, who=BOB)], r"^another person: the face at 0.5 s is not that at 0.0 s"),
        ([look(0, MIDDLE), look(0.5, LEFT)], r"outside of the middle square.* at 0.5 s \(10% of it is inside\). Crop it, or use --crop face"),
        ([look(0, MIDDLE), look(0.5, box(460, 180, 150))], r"outside of the middle square.* at 0.5 s \(77% of it"),
        (
            [look(0, MIDDLE, turn=90), look(0.5, MIDDLE, turn=90), look(1, MIDDLE)],
            "^its face lies on its side: turn the video by 90 degrees",
        ),
        ([look(0, MIDDLE, turn=180), look(0.5, MIDDLE)], None),
        ([look(0, turn=180), look(0.5, turn=180)], "^no face: none was found in 2 .* There is one when the video is turned by 180 degrees"),
        ([look(0, SMALL_FACE), look(0.5, MIDDLE)], "too small in the middle square.* at 0.0 s: 17% of its side, expected 20% or more"),
    ],
)
def test_a_face_is_looked_for_all_through(looks, reason):
    if reason is None:
        face, crop = check_face(looks, WIDE, crop=False)
        assert torch.equal(face, ANN) and crop is None
        return
    with pytest.raises(InputError, match=reason):
        check_face(looks, WIDE, crop=False)


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([look(0, MIDDLE), look(0.5, MIDDLE)], None),
        ([look(0, LEFT), look(0.5, LEFT)], Crop(0, 30, 270, WIDE)),
        ([look(0, LEFT), look(0.5, box(200, 180, 150))], Crop(0, 0, 360, WIDE)),
        ([look(0, SMALL_FACE), look(0.5, SMALL_FACE)], Crop(266, 120, 108, WIDE)),
        ([look(0, box(600, 325, 60))], Crop(532, 252, 108, WIDE)),
        ([look(0, LEFT), look(0.5, box(560, 180, 150))], r"outside of any square of the picture that stays where it is, at 0"),
        ([look(0, box(320, 180, 20))], "too small to crop, at 0.0 s: 20 pixels, expected 32 or more"),
    ],
)
def test_the_square_around_it_lies_within_the_picture(looks, expected):
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            check_face(looks, WIDE, crop=True)
        return
    _, crop = check_face(looks, WIDE, crop=True)
    assert crop == expected


def test_a_cut_stands_out_and_a_flash_is_none():
    still = [0.0, *([1.0] * 20)]
    assert cuts(still) == [] and cuts([0.0]) == []
    assert cuts([*still, 30.0, *still[1:]]) == [21]
    assert cuts([*still, 9.0, *still[1:], 60.0, *still[1:]]) == [21, 42]
    assert cuts([*still, 60.0, 60.0, *still[1:]]) == []  # there and back
    assert cuts([*still, *([20.0] * 9), *still[1:]]) == []  # a pan
    assert cuts([*still, 7.0, *still[1:]]) == []
    with pytest.raises(InputError, match="^a cut at 0.70 s and 1 more: use --split"):
        check_cuts([*still, 30.0, *still[1:], 30.0, 1.0], [Fraction(k, 30) for k in range(44)])


def spoken(seconds: float, quiet: list[tuple[float, float]], rate: int = 16000) -> Video:
    wave = torch.sin(torch.arange(round(seconds * rate)) / 20)[None] * 0.5
    for start, stop in quiet:
        wave[:, round(start * rate) : round(stop * rate)] *= 0.001
    times = tuple(Fraction(k, 30) for k in range(round(seconds * 30)))
    return Video(times, Fraction(30), Audio(wave, rate), (0.0,) * len(times))


def test_long_recordings_are_cut_in_pauses_and_at_cuts():
    video = spoken(12, [(2, 2.1), (3, 3.5), (7, 7.6), (11, 12)])
    assert [round(middle, 1) for middle in pauses(video)] == [3.2, 7.3, 11.5]
    assert spans(video, 20) == [(0, 360)]
    assert [stop / 30 for _, stop in spans(video, 5)] == pytest.approx([3.25, 7.3, 12], abs=0.05)
    assert spans(spoken(12, []), 5) == [(0, 150), (150, 300), (300, 360)]
    shots = Video(video.times, video.fps, video.audio, tuple(30.0 if k in (100, 200) else 0.0 for k in range(360)))
    assert spans(shots, 20) == [(0, 100), (100, 200), (200, 360)]


# With the small model's detector and recogniser


@pytest.fixture(scope="module")
def places() -> ModelPlaces:
    roles = ("face_analysis", "audio_encoder", "emotion2vec", "emotion_classifier")
    return ModelPlaces(**{role: find_model(role, SMALL) for role in roles}, vocal_separator=None)


@pytest.fixture(scope="module")
def preparers(places, one_thread) -> dict[str, Preparer]:
    """As they are, cropping, and splitting and cropping."""
    plain = Preparer(Settings(places, shortest=ClipLayout().shortest_video))
    others = {"plain": plain}
    for name, settings in {"crop": {"crop": True}, "split": {"crop": True, "split": 20.0}}.items():
        others[name] = object.__new__(Preparer)
        vars(others[name]).update(vars(plain), settings=Settings(places, shortest=ClipLayout().shortest_video, **settings))
    return others


def scenes(folder: Path) -> dict[str, Path]:
    one, other, frames, others = two_people()
    side, lost = placed(frames, 144, 288, 8, 4), frames.copy()
    for k in range(10, 48):  # out, as a film ends
        lost[k] = lost[k] * max(0.0, (24 - k) / 14) if k < 24 else 0
    half = len(frames) // 2
    cut = np.concatenate([frames[:half], others[half:]])
    walk = np.stack([placed(frames[k : k + 1], 144, 288, 8, round(80 + 76 * k / len(frames)))[0] for k in range(len(frames))])
    made = {
        "good": (frames, one),
        "at the side": (side, one),
        "two people": (np.concatenate([frames, others], axis=2), one),
        "walks away": (lost, one),
        "walks out of the square": (walk, one),
        "a cut": (np.concatenate([frames, others]), make_clip(7_000_100, 3.2)),
        "another person": (cut, one),
        "far away": (placed(one.frames(76), 400, 400, 160, 160), one),
        "too short": (frames[:30], one),
        "upside down": (np.ascontiguousarray(frames[:, ::-1]), one),
        "upside down, larger": (np.ascontiguousarray(one.frames(160)[:, ::-1]), one),
    }
    return {name: write_scene(folder / f"{name}.mp4", *scene) for name, scene in made.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    return scenes(tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize(
    ("name", "plain", "crop"),
    [
        ("good", None, None),
        ("at the side", "its face lies outside of the middle square", CROPPED),
        ("two people", "2 faces: a picture shows 2, expected exactly one, at 0.0 s", "2 faces"),
        ("walks away", "no face from 1.0 s to 1.5 s at least", "no face from"),
        ("walks out of the square", "its face lies outside of the middle square", CROPPED),
        ("a cut", "a cut at 1.60 s: use --split", "a cut at"),
        ("another person", "a cut at 0.80 s: use --split", "a cut at"),
        ("far away", "its face is too small in the middle square", CROPPED),
        ("too short", "too short: 30 frames, but training takes 37 at a time", "too short"),
        ("upside down", "no face from 0.0 s to 0.5 s at least. There is one when the video is turned by 180 degrees.", "no face"),
        ("upside down, larger", "its face is upside down: turn the video by 180 degrees.", "its face is upside down"),
    ],
)
def test_kinds(world, preparers, tmp_path, name, plain, crop):
    for which, expected in (("plain", plain), ("crop", crop)):
        outcome = preparers[which].prepare(Job(world[name], f"{name}.mp4", str(world[name]), tmp_path / which))
        if expected in (None, CROPPED):
            assert outcome.reason is None and outcome.notes == (() if expected is None else (CROPPED,))
        else:
            assert outcome.reason and outcome.reason.startswith(expected), outcome.reason
    if crop == CROPPED:  # what training then sees is a face in the middle, not squashed
        video = tmp_path / "crop" / outcome.entries[0]["video"]
        picture = training_pixels(read_frames(video, [20]), 128, 128)
        [face] = preparers["crop"].face_analyzer.detect(((picture[0].permute(1, 2, 0) + 1) * 127.5).byte().numpy())
        x1, y1, x2, y2 = face.box
        assert 0.35 < (y2 - y1) / 128 < 0.75 and abs((x1 + x2) / 2 - 64) < 20


def test_a_recording_is_split_into_clips_that_train(world, places, preparers, tmp_path):
    def run(jobs):
        for job in jobs:
            yield preparers["split"].prepare(job)

    folder = tmp_path / "videos"
    folder.mkdir()
    one, other, frames, others = two_people(3.2)
    write_scene(folder / "long.mp4", np.concatenate([frames[:60], 0 * frames[:40], others[:56]]), make_clip(7_000_100, 5.2))
    report = prepare_folder(folder, tmp_path / "out", {}, run)
    names = [json.loads(line)["face_emb"] for line in (tmp_path / "out" / METADATA).read_text().splitlines()]
    assert names == ["face_emb/long.mp4.0001of0002.safetensors", "face_emb/long.mp4.0002of0002.safetensors"]
    assert report.clips == 2 and len(report.prepared) == 1
    assert {video: reason.split(":")[0] for video, reason in report.failed.items()} == {f"{folder / 'long.mp4'}, 2.0 to 3.3 s": "no face"}
    videos = read_metadata([tmp_path / "out" / METADATA])
    assert [(video.frames, video.fps) for video in videos] == [(60, 30), (56, 30)]
    for video, expected in zip(videos, (frames[10], others[10]), strict=True):
        found = read_frames(video.video, [10])[0].permute(1, 2, 0).numpy()
        assert np.abs(found.astype(int) - expected).mean() < 6
    assert ClipDataset(videos, 64, 64)[1]["pixel_values"].shape[0] == 16

    lines = (tmp_path / "out" / METADATA).read_bytes()
    assert prepare_folder(folder, tmp_path / "out", {}, run).earlier == 1
    (tmp_path / "out" / METADATA).write_bytes(lines.splitlines(keepends=True)[0])  # killed while its lines were written
    assert prepare_folder(folder, tmp_path / "out", {}, run).clips == 2
    assert (tmp_path / "out" / METADATA).read_bytes() == lines


@pytest.mark.skipif(os.name == "nt", reason="names there are text")
@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"a" * 246 + b".mp4", "ä".encode() * 120 + b".mp4", b"new\nline.mp4", b"caf\xe9/b.mp4"])
def test_no_name_ends_a_run_of_this_or_a_later_stage(world, preparers, tmp_path, name):
    path = tmp_path / "videos" / os.fsdecode(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(world["good"].read_bytes())
    (tmp_path / "videos" / "plain.mp4").write_bytes(world["good"].read_bytes())
    report = prepare_folder(tmp_path / "videos", tmp_path / "out", {}, lambda jobs: (preparers["plain"].prepare(job) for job in jobs))
    assert not report.failed and len(report.prepared) == 2
    videos = read_metadata([tmp_path / "out" / METADATA])
    dataset = ClipDataset(videos, 64, 64)
    assert len(dataset) == 2 and all(dataset[k]["pixel_values"].shape[0] == 16 for k in range(2))
    assert prepare_folder(tmp_path / "videos", tmp_path / "out", {}, lambda jobs: (job for job in ())).earlier == 2
