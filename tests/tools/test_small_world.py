"""The small world: what is drawn follows the sound, the mood and the seed, and can be measured in the pictures."""

import json
import shutil
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from memo_modules.audio.io import decode
from memo_modules.clips import frame_count
from memo_modules.types import EMOTIONS
from tools import make_small_world
from tools.small_world import FPS, MOODS, SAMPLE_RATE, character, correlation, make_clip, measure_mouth, mouth_from_sound, strip, words
from tools.small_world.faces import render
from tools.small_world.performance import perform
from tools.small_world.videos import write_video, write_world

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
SIZE = 64
UNSEEN = range(5000, 5012)
"""Characters that no constant of the measuring was fitted on."""


@pytest.fixture(scope="module")
def clips():
    """Five seconds each of neutral characters."""
    return [make_clip(seed, 5, mood="neutral") for seed in (1, 2, 3)]


def decibels(audio, frames):
    """The energy of 50 ms around the middle of each frame."""
    padded = np.pad(audio.astype(np.float64), 400)
    middles = (np.arange(frames) + 0.5) * SAMPLE_RATE / FPS
    return np.array([10 * np.log10(np.mean(padded[int(m) : int(m) + 800] ** 2) + 1e-7) for m in middles])


def tone(hz, seconds):
    return 0.1 * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)


def still(emotion="neutral"):
    """Tracks of one frame with a shut mouth and open eyes."""
    tracks = perform(np.zeros(SAMPLE_RATE // FPS), np.array([EMOTIONS.index(emotion)]), seed=0)
    return replace(tracks, eyes=np.full(1, 0.8, np.float32), gaze=np.zeros((1, 2), np.float32))


def test_a_seed_makes_the_same_clip_again_and_another_seed_another():
    first, again, other = make_clip(7, 1), make_clip(7, 1), make_clip(8, 1)
    assert np.array_equal(first.audio, again.audio)
    assert np.array_equal(first.frames(SIZE), again.frames(SIZE))
    assert all(np.array_equal(track, getattr(again.tracks, name)) for name, track in vars(first.tracks).items())
    assert not np.array_equal(first.audio, other.audio)
    assert not np.array_equal(first.tracks.pose, other.tracks.pose)


def test_a_part_of_a_clip_is_drawn_as_within_the_whole():
    clip = make_clip(11, 1)
    whole = clip.frames(SIZE)
    assert whole.shape == (30, SIZE, SIZE, 3)
    assert whole.dtype == np.uint8
    assert np.array_equal(clip.frames(SIZE, 5, 8), whole[5:8])
    assert np.array_equal(clip.frames(SIZE, 29), whole[29:])


def test_sizes_show_the_same_picture():
    clip = make_clip(12, 0.1)
    large, small = clip.frames(256)[0], clip.frames(SIZE)[0]
    shrunk = np.asarray(Image.fromarray(large).reduce(4)).astype(int)
    assert np.abs(shrunk - small).mean() < 2.5


def test_identities_differ_and_stay_what_they_are():
    people = [character(seed) for seed in range(10)]
    pictures = [render(who, still(), SIZE)[0].astype(int) for who in people]
    for i in range(10):
        for j in range(i):
            assert np.abs(pictures[i] - pictures[j]).mean() > 10
            assert np.abs(people[i].vector() - people[j].vector()).max() > 0.2
    assert make_clip(1, 0.1, identity=4).who == make_clip(2, 0.1, identity=4).who == people[4]


def test_the_mouth_seen_follows_the_energy_heard_without_a_lag(clips):
    for clip in clips:
        seen, _ = measure_mouth(clip.frames(SIZE))
        heard = decibels(clip.audio, len(clip))
        lags = {lag: correlation(seen[5:-5], heard[5 + lag : len(clip) - 5 + lag]) for lag in range(-4, 5)}
        assert max(lags, key=lags.get) == 0
        assert lags[0] > 0.85


def test_a_louder_sound_opens_a_mouth_further():
    loudness = np.repeat(np.array((-40, -24, -18, -12, -6, 0.0)), SAMPLE_RATE // 2)
    opening, _ = mouth_from_sound(tone(400, 3) * 10 ** (loudness / 20), 90)
    steps = opening[7::15]
    assert (np.diff(steps) >= 0).all()
    assert steps[0] == 0
    assert steps[-1] > 0.9


def test_a_brighter_sound_widens_a_mouth():
    _, width = mouth_from_sound(np.concatenate([tone(hz, 0.5) for hz in (300, 600, 1200)]), 45)
    assert width[7] + 0.2 < width[22] < width[37] - 0.2


def test_how_loud_a_recording_is_does_not_matter(clips):
    audio = clips[0].audio
    opening, width = mouth_from_sound(0.3 * audio, 150)
    assert np.abs(opening - clips[0].tracks.opening).mean() < 0.02
    assert np.abs(width - clips[0].tracks.width).mean() < 0.02


def test_silence_closes_the_mouth(clips):
    audio = clips[0].audio.copy()
    audio[32000:48000] = 0
    tracks = perform(audio, clips[0].tracks.emotion, seed=1)
    assert tracks.opening[62:88].max() == 0
    assert measure_mouth(render(clips[0].who, tracks[62:88], SIZE))[0].max() < 0.05
    assert mouth_from_sound(np.zeros(SAMPLE_RATE), 30)[0].max() == 0


def test_nothing_but_a_mouth_is_taken_for_one():
    shut = np.concatenate([render(character(seed), still(), SIZE) for seed in range(200)])
    assert measure_mouth(shut)[0].max() < 0.05


def test_moods_change_the_voice():
    def statistics(mood):
        audio = np.concatenate([make_clip(seed, 3, mood, identity=seed % 4).audio for seed in range(8)]).astype(np.float64)
        power = np.abs(np.fft.rfft(audio)) ** 2
        hz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
        return np.sqrt(np.mean(audio**2)), power[hz > 1000].sum() / power.sum()

    loudness, brightness = zip(*(statistics(mood) for mood in ("sad", "neutral", "happy", "angry")), strict=True)
    assert all(quieter * 1.15 < louder for quieter, louder in pairwise(loudness))
    assert all(duller * 1.15 < brighter for duller, brighter in pairwise(brightness))


@needs_espeak
def test_voices_speak_words_with_a_speaker_and_a_mood():
    first, again, other = (make_clip(seed, 2, "happy", words=True) for seed in (4, 4, 5))
    assert np.array_equal(first.audio, again.audio) and not np.array_equal(first.audio, other.audio)
    assert len(first.audio) == 32000 and np.abs(first.audio).max() < 1
    loudness = [np.sqrt(np.mean(make_clip(4, 3, mood, words=True).audio ** 2)) for mood in ("sad", "neutral", "happy", "angry")]
    assert all(quieter * 1.15 < louder for quieter, louder in pairwise(loudness))
    assert first.tracks.opening.std() > 0.15 and first.who == make_clip(4, 2, "happy").who


@needs_espeak
def test_a_text_is_said_once_and_then_there_is_silence():
    clip = make_clip(6, 5, "neutral", words="Good morning to you all")
    heard = np.flatnonzero(np.abs(clip.audio) > 0.01) / SAMPLE_RATE
    assert 0.05 < heard[0] < 0.5 and 0.8 < heard[-1] - heard[0] < 3.5
    assert clip.tracks.opening[-20:].max() < 0.05
    longer = make_clip(6, 5, "neutral", words="Good morning to you all and to everybody else who is here today")
    assert np.abs(longer.audio[int(heard[-1] * SAMPLE_RATE) + 4000 :]).max() > 0.01


def test_without_the_program_words_say_what_is_missing(monkeypatch, tmp_path):
    words._program.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt-get install espeak-ng"):
        make_clip(1, 1, words=True)
    words._program.cache_clear()


def test_eyes_blink_more_often_where_that_is_asked_for():
    def blinks(often):
        shut = np.concatenate([make_clip(seed, 6, "neutral", blinks=often).tracks.eyes < 0.1 for seed in range(6)])
        return (~shut[:-1] & shut[1:]).sum()

    assert 1.5 * blinks(1) < blinks(2) < 3 * blinks(1)


def test_moods_move_brows_and_corners_as_drawn():
    looks = {mood: make_clip(3, 1, mood).tracks for mood in MOODS}
    assert looks["angry"].brow_tilt.max() < -0.6 < 0.6 < looks["sad"].brow_tilt.min()
    assert looks["sad"].corners.max() < looks["neutral"].corners.min() < looks["happy"].corners.min()
    angry, sad = (render(character(3), replace(still(), brow_tilt=np.full(1, tilt, np.float32)), 128)[0].astype(int) for tilt in (-0.9, 0.9))
    changed = np.abs(angry - sad).max(axis=2) > 40
    assert changed[30:60].sum() > 100  # around the brows
    assert changed[60:].sum() == changed[:30].sum() == 0


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_can_be_played(emotion):
    clip = make_clip(5, 0.5, emotion)
    assert set(clip.tracks.emotion) == {EMOTIONS.index(emotion)}
    assert np.abs(clip.audio).max() < 1


def test_every_other_clip_changes_its_mood_and_the_face_changes_with_it():
    clips = [make_clip(seed, 2) for seed in range(40)]
    changes = [np.flatnonzero(np.diff(clip.tracks.emotion)).tolist() for clip in clips]
    assert all(found in ([], [14, 29, 44]) for found in changes)
    assert 12 <= sum(map(bool, changes)) <= 28
    from_happy_to_sad = [EMOTIONS.index("happy"), EMOTIONS.index("sad")]
    tracks = next(clip.tracks for clip in clips if clip.tracks.emotion[[10, 20]].tolist() == from_happy_to_sad)
    assert tracks.corners[10] - tracks.corners[26] > 0.3


def test_blinks_come_as_often_as_peoples_and_shut_the_eyes():
    tracks = perform(np.zeros(120 * SAMPLE_RATE), np.full(120 * FPS, EMOTIONS.index("neutral")), seed=2)
    shut = tracks.eyes == 0
    starts = np.flatnonzero(shut[1:] & ~shut[:-1])
    assert 20 < len(starts) < 60
    assert np.diff(starts).min() > FPS * 0.5
    assert np.diff(starts).std() > FPS * 0.5
    open_, closed = (render(character(1), replace(still(), eyes=np.full(1, eyes, np.float32)), 128)[0].min(axis=2) for eyes in (0.8, 0.0))
    eyes = np.s_[50:75, 30:100]
    assert (open_[eyes] > 220).sum() > 60
    assert (closed[eyes] > 220).sum() == 0


def test_heads_move_slowly_and_within_the_picture():
    tracks = perform(np.zeros(60 * SAMPLE_RATE), np.full(60 * FPS, EMOTIONS.index("neutral")), seed=4)
    moved = np.abs(np.diff(tracks.pose[:, :2], axis=0)).max()
    assert 0.0005 < moved < 0.01
    assert np.abs(tracks.pose[:, :2]).max() < 0.1
    assert np.abs(tracks.pose[:, 2]).max() < 0.1


def test_sound_and_pictures_are_equally_long():
    for seconds in (0.1, 1, 37 / 30, 2.5):
        clip = make_clip(9, seconds)
        assert len(clip) == round(seconds * FPS)
        assert 0 <= len(clip) / FPS - len(clip.audio) / SAMPLE_RATE < 1 / SAMPLE_RATE
        assert frame_count(len(clip.audio), SAMPLE_RATE, Fraction(FPS)) == len(clip)


def test_measuring_tells_the_truth_about_unseen_characters():
    seen, truth, widths, true_widths = [], [], [], []
    for seed in UNSEEN:
        clip = make_clip(seed, 1.5)
        opening, width = measure_mouth(clip.frames(128))
        assert correlation(opening, clip.tracks.opening) > 0.98
        speaking = clip.tracks.opening > 0.25
        seen, truth = np.append(seen, opening), np.append(truth, clip.tracks.opening)
        widths, true_widths = np.append(widths, width[speaking]), np.append(true_widths, clip.tracks.width[speaking])
    assert correlation(seen, truth) > 0.99
    assert np.abs(seen - truth).mean() < 0.03
    assert correlation(widths, true_widths) > 0.97


def test_measuring_bears_blur_and_faded_colours():
    clip = make_clip(5100, 2)
    frames = clip.frames(128)
    blurred = np.stack([np.asarray(Image.fromarray(frame).reduce(2).resize((128, 128), Image.BICUBIC)) for frame in frames])
    for worse in (blurred, 0.85 * frames / 255 + 0.07):
        opening, _ = measure_mouth(worse)
        assert correlation(opening, clip.tracks.opening) > 0.98
        assert np.abs(opening - clip.tracks.opening).mean() < 0.05


def test_a_video_holds_every_frame_and_sample(tmp_path):
    clip = make_clip(21, 1.6)
    path = tmp_path / "a" / "clip.mp4"
    write_video(path, clip, 128)
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].average_rate == FPS
    sound = decode(path)
    assert frames.shape == (48, 128, 128, 3)
    assert sound.sample_rate == SAMPLE_RATE
    assert tuple(sound.waveform.shape) == (1, len(clip.audio)) == (1, 25600)
    assert correlation(sound.waveform[0].numpy(), clip.audio) > 0.99  # a shift of a few samples would be far below
    assert correlation(measure_mouth(frames)[0], clip.tracks.opening) > 0.98
    with pytest.raises(ValueError, match="even number"):
        write_video(path, clip, 127)


def test_a_world_lies_in_its_folder_with_the_truth_beside_it(tmp_path):
    calls = []
    paths = write_world(tmp_path, clips=2, seed=3, seconds=1.0, size=SIZE, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    world = json.loads((tmp_path / "world.json").read_text(encoding="utf-8"))
    assert world["frames"] == 48
    assert [clip["video"] for clip in world["clips"]] == [path.name for path in paths]
    assert [clip["seed"] for clip in world["clips"]] == [3_000_000, 3_000_001]
    truth = np.load(paths[1].with_suffix(".npz"))
    clip = make_clip(world["clips"][1]["seed"], 1.6)
    assert np.array_equal(truth["opening"], clip.tracks.opening)
    assert np.array_equal(truth["audio"], clip.audio)
    assert np.array_equal(truth["identity"], clip.who.vector())
    (grown,) = write_world(tmp_path / "more", clips=1, seed=3, seconds=1.0, size=SIZE, first=1)
    assert grown.name == paths[1].name and grown.read_bytes() == paths[1].read_bytes()


def test_the_script_writes_videos_and_a_sheet(tmp_path, monkeypatch, capsys):
    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr(
        sys, "argv", ["make_small_world.py", str(tmp_path / "w"), "--clips", "1", "--seconds", "1", "--size", "64", "--sheet", str(sheet)]
    )
    make_small_world.main()
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["clip_00000.mp4", "clip_00000.npz", "world.json"]
    assert "1 of 1 clips" in capsys.readouterr().out
    assert Image.open(sheet).size == (64 + SIZE, 14 + 4 * SIZE)
    monkeypatch.setattr(sys, "argv", ["make_small_world.py", str(tmp_path), "--size", "63"])
    with pytest.raises(SystemExit):
        make_small_world.main()


def test_a_strip_shows_frames_with_their_sound():
    assert strip(make_clip(2, 1), start=3, count=6, size=SIZE, columns=4).size == (4 * SIZE, 2 * (SIZE + 32))
