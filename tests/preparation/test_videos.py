"""Videos as data preparation reads them: frames counted as training counts them, sound in step, and what is wrong said."""

import struct
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from memo_modules.errors import InputError
from memo_modules.preparation.rewriting import rewrite
from memo_modules.preparation.videos import Video, constant_rate, duration, read_video
from memo_modules.types import Audio
from memo_modules.video.files import write_video
from memo_modules.video.reading import read_frames
from tests.helpers.video_files import RATE, ramp, record

SECOND = ramp(RATE)


def test_frames_are_counted_as_training_reads_them_and_sound_goes_with_them(tmp_path):
    path, seen = record(tmp_path / "a.mkv", [Fraction(k, 30) for k in range(12)], SECOND), []
    video = read_video(path, lambda *look: seen.append(look))
    assert video.fps == 30 and len(video.times) == 12 and video.size == (32, 32)
    assert [(number, time, round(picture.mean() / 10)) for number, time, picture in seen] == [(0, 0, 0), (11, Fraction(367, 1000), 11)]
    assert np.array_equal(video.audio.waveform.numpy(), SECOND[:, :6400]) and video.audio.sample_rate == RATE
    read_frames(path, [11])
    with pytest.raises(InputError, match="has 12 frames"):
        read_frames(path, [12])


def lying_on_its_side(path: Path) -> Path:
    """A video, black on the left and white on the right, that says of itself that it is to be shown turned clockwise."""
    with av.open(str(path), "w") as container:
        stream, heard = container.add_stream("mpeg4", rate=30), container.add_stream("aac", rate=RATE, layout="mono")
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:, 32:] = 255
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        sound = av.AudioFrame.from_ndarray(ramp(6400), format="fltp", layout="mono")
        sound.sample_rate = RATE
        container.mux(heard.encode(sound))
        container.mux(heard.encode(None))
    written = bytearray(path.read_bytes())
    matrix = written.index(b"tkhd") + 44
    assert struct.unpack(">9i", written[matrix : matrix + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    written[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 32 * 65536, 0, 2**30)
    path.write_bytes(written)
    return path


def test_pictures_are_turned_as_the_file_says(tmp_path):
    path = lying_on_its_side(tmp_path / "phone.mp4")
    seen = []
    video = read_video(path, lambda number, time, picture: seen.append(picture))
    rewrite(path, tmp_path / "rewritten.mp4", video, Fraction(25))
    pictures = [seen[0], *(read_frames(each, [3])[0].permute(1, 2, 0).numpy() for each in (path, tmp_path / "rewritten.mp4"))]
    for picture in pictures:
        assert picture.shape == (64, 32, 3)
        assert picture[:28].max() < 40 and picture[36:].min() > 215


@pytest.mark.parametrize(("matrix", "full"), [(1, 1), (1, 2), (5, 1)])
def test_rewritten_videos_keep_their_colours(tmp_path, matrix, full):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, full
        picture = np.full((32, 32, 3), (40, 200, 40), np.uint8)
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(32, 32, "yuv420p", dst_colorspace=matrix, dst_color_range=full)))
        container.mux(stream.encode(None))
    times = tuple(Fraction(k, 30) for k in range(12))
    rewrite(tmp_path / "a.mkv", tmp_path / "b.mp4", Video(times, None, None), Fraction(30))
    before, after = (read_frames(tmp_path / name, [5])[0].float().mean(dim=(1, 2)) for name in ("a.mkv", "b.mp4"))
    assert (after - before).abs().max() <= 5, (before, after)


def test_a_pause_of_the_recording_is_silence(tmp_path):
    path = record(tmp_path / "a.mkv", sound=ramp(2048), sound_pauses={1024: 3200})
    found = read_video(path).audio.waveform.numpy()[0]
    assert np.array_equal(found[:1024], ramp(2048)[0, :1024]) and np.array_equal(found[4224:5248], ramp(2048)[0, 1024:])
    assert not found[1024:4224].any()


def pictures_of(path: Path, sizes: list[int], times: list[int]) -> Path:
    """A video with sound whose pictures have these sizes, at these frames of 30 per second."""
    with av.open(str(path), "w") as container:
        stream, heard = container.add_stream("mjpeg", rate=30), container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        stream.width, stream.height, stream.pix_fmt = sizes[0], sizes[0], "yuvj420p"
        container.start_encoding()
        for place, (size, time) in enumerate(zip(sizes, times, strict=True)):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = size, size, "yuvj420p", Fraction(1, 30)
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), 90, np.uint8), format="rgb24").reformat(size, size, "yuvj420p")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            for packet in (*encoder.encode(frame), *encoder.encode(None)):
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, time, min(time, place), Fraction(1, 30)
                container.mux(packet)
        sound = av.AudioFrame.from_ndarray((ramp(6400) * 2**15).astype(np.int16), format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(heard.encode(sound))
        container.mux(heard.encode(None))
    return path


@pytest.mark.parametrize(
    ("sizes", "times", "message"),
    [
        ([32] * 4, [0, 1, 2, 3], None),
        ([32, 32, 48, 48], [0, 1, 2, 3], "change their size, at frame 2"),
        ([32] * 4, [0, 2, 1, 3], "out of order, at frame 2"),
    ],
)
def test_what_training_could_not_read_is_refused(tmp_path, sizes, times, message):
    path = pictures_of(tmp_path / "a.mkv", sizes, times)
    with pytest.raises(InputError, match=message) if message else nullcontext():
        assert len(read_video(path).times) == 4


def test_tags_may_be_in_any_encoding(tmp_path):
    path = record(tmp_path / "a.mkv", sound=SECOND)
    written = path.read_bytes()
    assert b"Lavf" in written
    path.write_bytes(written.replace(b"Lavf", b"caf\xe9"))
    assert len(read_video(path).times) == 12 and len(read_frames(path, [11])) == 1


@pytest.mark.parametrize("first_picture", [Fraction(0), Fraction(1, 2)])
@pytest.mark.parametrize("late", [Fraction(1, 10), Fraction(0), Fraction(-1, 10)])
def test_sound_begins_with_the_first_picture(tmp_path, first_picture, late):
    times = [first_picture + Fraction(k, 30) for k in range(12)]
    if first_picture + late < 0:
        pytest.skip("no file begins before zero")
    path = record(tmp_path / "a.mkv", times, ramp(2000), first_picture + late)
    silence, heard = max(0, round(late * RATE)), ramp(2000)[:, max(0, round(-late * RATE)) :]
    expected = np.pad(heard, ((0, 0), (silence, 6400 - silence - heard.shape[1])))
    assert np.array_equal(read_video(path).audio.waveform.numpy(), expected)


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(12, 1)])
def test_rates_are_exact_though_containers_round_times(tmp_path, rate):
    path = record(tmp_path / "a.mkv", [k / rate for k in range(40)], ramp(2 * RATE), rate=rate)
    assert abs(read_video(path).fps - rate) < Fraction(1, 1000)
    rounded = [Fraction(round(1000 * k / rate), 1000) for k in range(200)]
    assert constant_rate(rounded, (Fraction(0), Fraction(1000), rate)) == rate


def test_a_rate_that_varies_is_none(tmp_path):
    times = [Fraction(k, 30) for k in range(40) if k not in (20, 21)]
    assert read_video(record(tmp_path / "a.mkv", times, ramp(2 * RATE))).fps is None


def test_the_last_frame_of_a_slow_video_is_shown_for_as_long_as_the_others(tmp_path):
    """Which is no sign that it is cut off."""
    write_video(tmp_path / "a.mp4", torch.zeros(4, 3, 64, 64), Fraction(1), Audio(torch.from_numpy(ramp(RATE)), RATE))
    video = read_video(tmp_path / "a.mp4")
    assert (video.fps, len(video.times)) == (1, 4) and video.audio.waveform.shape[1] == 4 * RATE


def cut(path, share, name="cut"):
    content = path.read_bytes()
    other = path.with_name(f"{name}{path.suffix}")
    other.write_bytes(content[: int(len(content) * share)])
    return other


LONG = [Fraction(k, 30) for k in range(90)]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: record(folder / "a.mp4"), "^no sound: the file has no audio stream"),
        (lambda folder: record(folder / "a.mp4", [], SECOND), "^no picture: the file has no video stream"),
        (lambda folder: record(folder / "a.mp4", sound=0 * SECOND), "^no sound: its audio stream is silent"),
        (lambda folder: record(folder / "a.mkv", sound=SECOND, sound_at=Fraction(2)), "^no sound: there is none while its pictures"),
        (lambda folder: record(folder / "a.mkv", LONG[:1], SECOND), "^1 of 1 frames can be decoded, expected all and at least 2"),
        (lambda folder: cut(record(folder / "a.mp4", sound=SECOND), 0.5), "^it is cut off: the index at its end is missing"),
        (lambda folder: cut(record(folder / "a.mp4", LONG, ramp(3 * RATE), movflags="faststart"), 0.6), r"^it is cut off or damaged: .* frame \d+ "),
        (lambda folder: cut(record(folder / "a.mkv", LONG, ramp(3 * RATE)), 0.6), "^it is cut off: it ends after 1.* s but says that it lasts 3"),
        (lambda folder: (folder / "a.mp4").write_text("not a video") and folder / "a.mp4", "^it is not a video that can be read"),
        (lambda folder: cut(record(folder / "a.mp4"), 0), "^the file is empty"),
        (lambda folder: folder / "missing.mp4", r"^it cannot be read \(No such file"),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path, make, reason):
    with pytest.raises(InputError, match=reason):
        read_video(make(tmp_path))


def test_a_hole_in_the_middle_is_found(tmp_path):
    path = record(tmp_path / "a.mp4", LONG, ramp(3 * RATE))
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(InputError, match="cut off or damaged"):
        read_video(path)


def test_durations_are_those_of_the_frames(tmp_path):
    assert duration(record(tmp_path / "a.mp4", LONG, SECOND)) == (90, Fraction(3))
    assert duration(record(tmp_path / "b.mp4", [Fraction(1, 3) + k / Fraction(25) for k in range(10)])) == (10, Fraction(2, 5))
    (tmp_path / "c.mp4").write_text("not a video")
    with pytest.raises(InputError, match="not a video that can be read"):
        duration(tmp_path / "c.mp4")
