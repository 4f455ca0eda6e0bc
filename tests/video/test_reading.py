"""What a container says about showing its video is obeyed by every reader alike: preparation, training, rewriting and sound."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from memo_modules.audio.io import decode
from memo_modules.errors import InputError
from memo_modules.preparation.rewriting import rewrite
from memo_modules.preparation.videos import duration, read_video, stated_rate
from memo_modules.training.samples import _rate_and_sound
from memo_modules.video import reading
from memo_modules.video.reading import read_frames, stream_frames
from tests.helpers.tracks import COVER, DEFAULT, RATE, Pictures, Sound, set_matrix, write_tracks
from tests.helpers.video_files import ramp

FFMPEG = shutil.which("ffmpeg")

MATRICES = {
    "as it is": ((1, 0, 0, 1), "1234"),
    "mirrored, as selfies are": ((-1, 0, 0, 1), "2143"),
    "upside down": ((-1, 0, 0, -1), "4321"),
    "mirrored and upside down": ((1, 0, 0, -1), "3412"),
    "mirrored and lying on its left side": ((0, 1, 1, 0), "1324"),
    "lying on its left side": ((0, 1, -1, 0), "3142"),
    "mirrored and lying on its right side": ((0, -1, -1, 0), "4231"),
    "lying on its right side": ((0, -1, 1, 0), "2413"),
}
"""a b c d of the matrix, and which quarter of the stored picture is then shown top left, top right, bottom left, bottom right."""


def quarters(frames: int = 16, height: int = 32, width: int = 64) -> np.ndarray:
    """Pictures of four greys: quarter n is a grey of 50 n."""
    picture = np.zeros((frames, height, width, 3), np.uint8)
    for number in range(4):
        rows, columns = divmod(number, 2)
        picture[:, rows * height // 2 :, columns * width // 2 :] = 50 * (number + 1)
    picture[:, height // 2 :, : width // 2] = 150
    return picture


def shown(picture: np.ndarray) -> str:
    """Which quarters stand where, in reading order."""
    h, w = picture.shape[:2]
    centres = [picture[row, column].mean() / 50 for row in (h // 4, 3 * h // 4) for column in (w // 4, 3 * w // 4)]
    return "".join(str(round(centre)) for centre in centres)


def as_every_reader_shows_it(path: Path, number: int = 3) -> list[np.ndarray]:
    """Frame ``number`` (h w 3) as training and its cache read it, as preparation sees it, and as it is rewritten."""
    seen = []
    video = read_video(path, lambda frame, time, picture: seen.append(picture))
    target = path.with_name("rewritten.mp4")
    rewrite(path, target, video, Fraction(30))
    tensors = [read_frames(path, [number])[0], list(stream_frames(path))[number], read_frames(target, [number])[0]]
    return [*(tensor.permute(1, 2, 0).numpy() for tensor in tensors), seen[0]]


@pytest.mark.parametrize(("matrix", "order"), MATRICES.values(), ids=MATRICES)
def test_a_matrix_turns_and_mirrors(tmp_path, matrix, order):
    path = set_matrix(write_tracks(tmp_path / "a.mp4", Pictures(quarters()), Sound(ramp(RATE), "aac")), matrix)
    pictures = as_every_reader_shows_it(path)
    assert [shown(picture) for picture in pictures] == [order] * 4
    assert {picture.shape for picture in pictures} == {(32, 64, 3) if matrix[0] else (64, 32, 3)}
    if FFMPEG:
        command = [FFMPEG, "-v", "error", "-i", path, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
        theirs = np.frombuffer(raw, np.uint8).reshape(read_frames(path, [0])[0].permute(1, 2, 0).shape).astype(int)
        assert np.abs(theirs - read_frames(path, [0])[0].permute(1, 2, 0).numpy()).max() <= 2  # of the conversion to RGB


def test_an_angle_that_is_none_of_the_four_is_refused(tmp_path):
    path = write_tracks(tmp_path / "a.mp4", Pictures(quarters()), Sound(ramp(RATE), "aac"))
    set_matrix(path, (1, 0, 0, 1))
    content = path.read_bytes()
    place = content.index(b"tkhd") + 44
    turned = np.array([50000, 42000, 0, -42000, 50000, 0, 0, 0, 2**30], ">i4").tobytes()
    path.write_bytes(content[:place] + turned + content[place + 36 :])
    for read in (read_video, lambda path: read_frames(path, [0])):
        with pytest.raises(InputError, match="an angle that is not a right one"):
            read(path)


@pytest.mark.parametrize(("sar", "size"), [((1, 1), (32, 64)), ((2, 1), (32, 128)), ((1, 2), (64, 64)), ((12, 11), (32, 70))])
def test_pixels_that_are_not_square_are_made_square(tmp_path, sar, size):
    pictures = Pictures(quarters(), "libx264", sar=Fraction(*sar))
    path = write_tracks(tmp_path / "a.mkv", pictures, Sound(ramp(RATE)))
    assert {picture.shape[:2] for picture in as_every_reader_shows_it(path)} == {size}
    assert read_video(path).size == size[::-1]


def grey(value: int, frames: int = 16, height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((frames, height, width, 3), value, np.uint8)


PICTURE_TRACKS = {
    "a cover first": [Pictures(grey(200, 1), "mjpeg", "yuvj420p", disposition=COVER), Pictures(grey(50))],
    "a cover that is not marked": [Pictures(grey(200, 1), "mjpeg", "yuvj420p"), Pictures(grey(50))],
    "a cover last": [Pictures(grey(50)), Pictures(grey(200, 1), "mjpeg", "yuvj420p", disposition=COVER)],
    "the second is the default": [Pictures(grey(200), disposition=0), Pictures(grey(50), disposition=DEFAULT)],
    "the first is the default": [Pictures(grey(50), disposition=DEFAULT), Pictures(grey(200), disposition=0)],
    "none is the default": [Pictures(grey(50), disposition=0), Pictures(grey(200), disposition=0)],
}


@pytest.mark.parametrize("tracks", PICTURE_TRACKS.values(), ids=PICTURE_TRACKS)
def test_the_track_that_is_shown_is_read(tmp_path, tracks):
    suffix = "mp4" if any(track.disposition == COVER for track in tracks) else "mkv"
    path = write_tracks(tmp_path / f"a.{suffix}", *tracks, Sound(ramp(RATE), "aac"))
    assert [round(picture.mean() / 10) for picture in as_every_reader_shows_it(path)] == [5] * 4
    assert duration(path)[0] == 16 and stated_rate(path) == 30


def test_a_cover_alone_is_no_video(tmp_path):
    path = write_tracks(tmp_path / "a.mp4", Pictures(grey(9, 1), "mjpeg", "yuvj420p", disposition=COVER), Sound(ramp(RATE), "aac"))
    with pytest.raises(InputError, match="^no picture: the file has a cover, and no video stream besides it"):
        read_video(path)


VOICE, OTHER, SILENCE = ramp(RATE), ramp(RATE)[:, ::-1], np.zeros((1, RATE), np.float32)
SOUND_TRACKS = {
    "the only one": [Sound(VOICE)],
    "the second is the default": [Sound(OTHER, disposition=0), Sound(VOICE, disposition=DEFAULT)],
    "the first is the default": [Sound(VOICE, disposition=DEFAULT), Sound(OTHER, disposition=0)],
    "none is the default": [Sound(VOICE, disposition=0), Sound(OTHER, disposition=0)],
    "the first is silent": [Sound(SILENCE, disposition=0), Sound(VOICE, disposition=0)],
    "the default is silent": [Sound(OTHER * 0, disposition=DEFAULT), Sound(VOICE, disposition=0)],
    "two are silent": [Sound(SILENCE, disposition=0), Sound(SILENCE, disposition=0), Sound(VOICE, disposition=0)],
}


@pytest.mark.parametrize("tracks", SOUND_TRACKS.values(), ids=SOUND_TRACKS)
def test_the_sound_is_that_of_the_track_alone(tmp_path, tracks):
    path = write_tracks(tmp_path / "a.mkv", Pictures(grey(50, 30)), *tracks)
    alone = write_tracks(tmp_path / "b.mkv", Pictures(grey(50, 30)), Sound(VOICE))
    expected = read_video(alone).audio.waveform
    assert torch.equal(expected, torch.from_numpy(VOICE))
    for sound in (read_video(path).audio, decode(path), _rate_and_sound(path)[1]):
        assert torch.equal(sound.waveform, expected)


def test_where_all_are_silent_it_is_said(tmp_path):
    path = write_tracks(tmp_path / "a.mkv", Pictures(grey(50, 30)), Sound(SILENCE), Sound(SILENCE))
    with pytest.raises(InputError, match="^no sound: its audio stream is silent"):
        read_video(path)
    assert decode(path).waveform.shape == (1, RATE)


@pytest.mark.parametrize(("trc", "name"), [(16, "PQ"), (18, "HLG"), (1, None), (None, None)])
def test_hdr_is_refused_by_name_by_every_reader(tmp_path, trc, name):
    path = write_tracks(tmp_path / "a.mkv", Pictures(grey(50, 30), "libx264", trc=trc), Sound(VOICE))
    for read in (read_video, duration, stated_rate, lambda path: read_frames(path, [0]), lambda path: list(stream_frames(path))):
        if name is None:
            read(path)
            continue
        with pytest.raises(InputError, match=f"HDR: its brightness is stored as {name}"):
            read(path)


@pytest.mark.parametrize(("params", "interlaced"), [("tff=1", True), ("bff=1", True), ("bframes=0", False)])
def test_interlacing_is_noticed(tmp_path, params, interlaced):
    path = write_tracks(tmp_path / "a.mkv", Pictures(quarters(30), "libx264", options={"x264-params": params}), Sound(VOICE))
    assert read_video(path).interlaced is interlaced


CONTAINERS = {
    "mts": ("mpegts", "libx264", "ac3"),
    "m2ts": ("mpegts", "mpeg2video", "ac3"),
    "ts": ("mpegts", "mpeg2video", "mp2"),
    "wmv": ("asf", "wmv2", "wmav2"),
    "flv": ("flv", "libx264", "aac"),
    "mpg": ("mpeg", "mpeg2video", "mp2"),
    "vob": ("vob", "mpeg2video", "ac3"),
    "3gp": ("3gp", "mpeg4", "aac"),
    "avi": ("avi", "mpeg4", "mp2"),
    "mxf": ("mxf", "mpeg2video", "pcm_s16le"),
}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_container_gives_the_frames_that_are_asked_for(tmp_path, suffix):
    format, codec, audio_codec = CONTAINERS[suffix]
    pictures = np.concatenate([grey(20 + 4 * k, 1) for k in range(50)])
    options = {"g": "12"} | ({"bf": "2"} if codec in ("libx264", "mpeg2video") else {})
    rate = 48000 if suffix != "flv" else 44100
    sound = Sound(0.3 * np.sin(np.arange(2 * rate) / 40).astype(np.float32)[None], audio_codec, rate)
    path = write_tracks(tmp_path / f"a.{suffix}", Pictures(pictures, codec, options=options), sound, format=format)
    video = read_video(path)
    assert len(video.times) == 50 and video.fps == 30 and video.audio.waveform.abs().max() > 0.2
    for numbers in ([0], [30], [49], [11, 12, 13], [5, 40, 41]):
        found = read_frames(path, numbers).float().mean(dim=(1, 2, 3))
        assert (found - torch.tensor([20.0 + 4 * number for number in numbers])).abs().max() < 2, numbers
    assert len(list(stream_frames(path))) == 50


def test_a_file_is_read_through_once_for_its_times_and_again_when_it_has_changed(tmp_path, monkeypatch):
    asked, index = [], reading._index
    monkeypatch.setattr(reading, "_index", lambda container, track: asked.append(container.name) or index(container, track))
    monkeypatch.setattr(reading, "_INDICES", reading._Indices(100))

    def write(name: str, first: int, frames: int = 40) -> Path:
        return write_tracks(
            tmp_path / name, Pictures(np.concatenate([grey(first + 4 * k, 1) for k in range(frames)]), "libx264", options={"g": "12"})
        )

    a, b = write("a.mp4", 20), write("b.mp4", 20)
    for number in (30, 3, 17):
        assert abs(read_frames(a, [number]).float().mean() - (20 + 4 * number)) < 2
        read_frames(b, [number])
    assert asked == [str(a), str(b)]
    write("a.mp4", 40, 41)
    assert abs(read_frames(a, [30]).float().mean() - 160) < 2 and asked == [str(a), str(b), str(a)]
    read_frames(b, [0])
    c = write("c.mp4", 20)
    for path in (c, b, c, a):
        read_frames(path, [0])
    assert asked[3:] == [str(c), str(a)], "of more than 100 frames in all those are forgotten that were asked for longest ago"
