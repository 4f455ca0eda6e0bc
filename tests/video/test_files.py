"""Video files: segments and what they are joined to, read back by PyAV and by ComfyUI."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from memo_modules.errors import InputError, MissingPackageError, StorageError
from memo_modules.host import Host
from memo_modules.types import Audio
from memo_modules.video import formats
from memo_modules.video.files import join_segments, write_pictures, write_segment, write_video
from memo_modules.video.formats import VideoFormat
from memo_modules.video.pixel_formats import planes
from memo_modules.video.sound_track import SoundTrack
from tests.helpers.video_files import pictures, sound

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(2997, 100), Fraction(30), Fraction(60)]
H264, FFV1, MKV = VideoFormat(), VideoFormat("ffv1"), VideoFormat("ffv1", container="mkv")
FORMATS = pytest.mark.parametrize("format", [H264, FFV1, MKV], ids=["h264", "ffv1", "mkv"])
CUTS = (16, 1, 16, 7)


def moving(frames, height=48, width=64, seed=0):
    """float32 (frames 3 height width): blobs that drift, so that B-frames are worth while, in whole 255ths."""
    picture = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(picture, (height + frames, width + frames), mode="bicubic").clamp(0, 1)
    return torch.cat([(large[:, :, k : k + height, k // 2 : k // 2 + width] * 255).round() / 255 for k in range(frames)])


def noise(channels, samples, seed=0):
    return torch.rand(channels, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def segments(folder, fps, format, frames=None, cuts=CUTS):
    frames = moving(sum(cuts)) if frames is None else frames
    paths = []
    for i, part in enumerate(frames.split(cuts)):
        paths.append(folder / f"segment_{i}{format.suffix}")
        write_segment(paths[-1], part, fps, format)
    return paths


def eight_bit(frames):
    return (frames * 255).round().byte().movedim(1, -1).numpy()


@FORMATS
@pytest.mark.parametrize("fps", RATES, ids=lambda fps: f"{float(fps):.4g}")
def test_segments_are_joined_without_a_change_and_at_exact_times(tmp_path, fps, format):
    parts = segments(tmp_path, fps, format)
    audio = Audio(noise(1, int(sum(CUTS) / fps * 16000) - 100), 16000)
    join_segments(tmp_path / "joined", parts, fps, format, audio)
    shown, times = pictures(tmp_path / "joined")
    assert np.array_equal(shown, np.concatenate([pictures(part)[0] for part in parts]))
    rounding = Fraction(1, 2000) if format.container == "mkv" else 0
    assert len(times) == sum(CUTS) and all(abs(time - k / fps) <= rounding for k, time in enumerate(times))
    with av.open(str(tmp_path / "joined")) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        # the one counts no frames and has times in milliseconds, from which the nearest common rate is guessed (PyAV 17: 30000/1001)
        assert stream.average_rate == fps or (format.container == "mkv" and float(stream.average_rate) == pytest.approx(float(fps), rel=1e-5))
        assert stream.frames == (0 if format.container == "mkv" else sum(CUTS))
        assert all(a.dts < b.dts for a, b in pairwise(packets)) and all(p.dts <= p.pts for p in packets)
        keys = [k for k, packet in enumerate(packets) if packet.is_keyframe]
        assert keys == ([0, 16, 17, 33] if format == H264 else list(range(40)))
        reordered = [p.pts for p in packets] != sorted(p.pts for p in packets)
        assert reordered == (format == H264), "no B-frames: their times are not tested"


@FORMATS
def test_the_same_frames_give_the_same_bytes(tmp_path, format):
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        join_segments(tmp_path / run / "joined", segments(tmp_path / run, Fraction(25), format), Fraction(25), format, Audio(noise(2, 9999), 44100))
    assert (tmp_path / "a" / "joined").read_bytes() == (tmp_path / "b" / "joined").read_bytes()


def test_a_small_clip_has_the_same_bytes_every_time(tmp_path):
    """Whatever lies in the memory that the encoder is given."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand(16, 3, 9, 9, generator=generator) * 0.3 + torch.rand(1, 3, 9, 9, generator=generator) * 0.5
    frames = F.interpolate(shapes, size=(72, 72), mode="bicubic") + 0.1 * torch.rand(16, 3, 72, 72, generator=generator)
    written = set()
    for number in range(20):
        write_segment(tmp_path / f"{number}", frames, Fraction(30), H264)
        written.add((tmp_path / f"{number}").read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("format", [FFV1, MKV], ids=["mp4", "mkv"])
def test_ffv1_keeps_every_rgb_value_of_every_size(tmp_path, format):
    frames = torch.randint(0, 256, (3, 3, 17, 23)) / 255
    between = frames + (torch.rand(frames.shape) - 0.5) * 0.9 / 255  # stored as the nearest value
    join_segments(tmp_path / "joined", segments(tmp_path, Fraction(30), format, between, (2, 1)), Fraction(30), format)
    assert np.array_equal(pictures(tmp_path / "joined")[0], eight_bit(frames))


CHART = [(r, g, b) for r in (0, 128, 255) for g in (0, 128, 255) for b in (0, 128, 255)] + [(180, 90, 60), (16, 16, 16), (235, 235, 235)]


@pytest.mark.parametrize(
    "format",
    [
        VideoFormat(crf=4),
        VideoFormat(crf=4, pixel_format="yuv444p"),
        VideoFormat("ffv1", pixel_format="yuv420p"),
        VideoFormat("ffv1", pixel_format="yuv444p"),
        FFV1,
        MKV,
    ],
    ids=str,
)
def test_colours_and_their_tags(tmp_path, format):
    patches = torch.tensor(CHART).float().reshape(5, 6, 3).repeat_interleave(16, 0).repeat_interleave(16, 1) / 255
    frames = patches.movedim(-1, 0)[None].repeat(2, 1, 1, 1)
    write_video(tmp_path / "chart", frames, Fraction(25), None, format)
    middle = pictures(tmp_path / "chart")[0][:, 4::16, 4::16].astype(int)
    assert np.abs(middle - eight_bit(frames)[:, 4::16, 4::16]).max() <= (0 if format.pixel_format == "bgr0" else 3)
    with av.open(str(tmp_path / "chart")) as container:
        context = container.streams.video[0].codec_context
        matrix_and_range = (0, 2) if format.pixel_format == "bgr0" else (1, 1)
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 13, *matrix_and_range)


def test_planes_are_bt709_to_the_nearest_value():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    r, g, b = np.moveaxis(picture.astype(float), -1, 0)
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    blue, red = 128 + 224 / 255 * (b - luma) / 1.8556, 128 + 224 / 255 * (r - luma) / 1.5748
    for plane, exact in zip(planes(picture, "yuv444p"), (16 + 219 / 255 * luma, blue, red), strict=True):
        assert np.abs(plane - exact).max() < 0.51
    for plane, exact in zip(planes(picture, "yuv420p")[1:], (blue, red), strict=True):
        rows = np.pad((exact[0::2] + exact[1::2]) / 2, ((0, 0), (1, 0)), mode="edge")
        assert np.abs(plane - (rows[:, 0:-2:2] + 2 * rows[:, 1:-1:2] + rows[:, 2::2]) / 4).max() < 0.51
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert all((plane == 128).all() for name in ("yuv444p", "yuv420p") for plane in planes(grey, name)[1:])


@pytest.mark.parametrize("format", [VideoFormat(audio_codec="flac"), VideoFormat("ffv1", audio_codec="flac", container="mkv")], ids=["mp4", "mkv"])
@pytest.mark.parametrize(("bits", "channels", "rate"), [(16, 1, 16000), (24, 2, 44100), (24, 6, 96000), (16, 7, 11025), (24, 2, 192000)])
def test_flac_keeps_sounds_of_16_and_24_bits_to_the_bit(tmp_path, format, bits, channels, rate):
    waveform = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (channels, int(1.3 * rate) + 1)) / 2.0 ** (bits - 1)
    write_video(tmp_path / "v", moving(33), Fraction(25), Audio(waveform, rate), format)
    heard, at = sound(tmp_path / "v")
    assert at == rate and np.array_equal(heard, waveform.numpy())


@pytest.mark.parametrize("format", [VideoFormat(audio_codec="pcm"), VideoFormat("ffv1", audio_codec="pcm"), MKV], ids=["h264", "ffv1", "mkv"])
@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 48000), (5, 22050), (7, 192000)])
def test_pcm_keeps_every_float(tmp_path, format, channels, rate):
    waveform = 3 * noise(channels, rate + 1)
    write_video(tmp_path / "v", moving(26), Fraction(25), Audio(waveform, rate), format)
    heard, at = sound(tmp_path / "v")
    assert at == rate and np.array_equal(heard, waveform.numpy())


@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 44100), (2, 48000), (6, 48000)])
def test_aac_is_not_shifted_and_keeps_its_channels(tmp_path, channels, rate):
    smooth = torch.nn.functional.avg_pool1d(noise(channels, rate + 777 + 8), 9, 1)  # below what AAC throws away
    write_video(tmp_path / "v", moving(30), Fraction(25), Audio(smooth, rate))
    heard, at = sound(tmp_path / "v")
    assert at == rate and smooth.shape[1] <= heard.shape[1] < smooth.shape[1] + 2048
    for channel in range(channels if channels < 6 else 3):  # of six, the fourth is for the bass alone
        window = smooth[channel, 3000:9000].numpy()
        lags = [float(np.dot(window, heard[channel, 3000 + lag : 9000 + lag])) for lag in range(-2500, 2500)]
        assert int(np.argmax(lags)) == 2500
        assert max(lags) > 0.9 * np.dot(window, window)


def test_sound_is_written_in_chunks(tmp_path):
    resource = pytest.importorskip("resource", reason="of POSIX")
    parts, samples = segments(tmp_path, Fraction(25), H264), 20_000_000
    audio = Audio(torch.zeros(2, 1).expand(2, samples), 48000)  # 160 MB as samples, none as it is held here
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    join_segments(tmp_path / "joined", parts, Fraction(25), VideoFormat(audio_codec="flac"), audio)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 60  # KiB on Linux
    with av.open(str(tmp_path / "joined")) as container:
        assert container.streams.audio[0].duration == samples


METADATA = {"workflow": json.dumps({"nodes": ["ü", "日本"]}), "prompt": json.dumps({"1": {"inputs": {}}})}

READ = """
import json, sys
from comfy_api.latest._input_impl.video_types import VideoFromFile
said = {}
for path in sys.argv[1:]:
    video = VideoFromFile(path)
    parts = video.get_components()
    said[path] = [video.get_frame_count(), len(parts.images), str(parts.frame_rate), video.get_duration(), list(parts.audio["waveform"].shape),
                  parts.images[0, 8, 8].tolist(), dict(getattr(parts, "metadata", None) or {})]
print(json.dumps(said))
"""


def test_comfyui_reads_every_frame_and_sample_and_the_workflow(tmp_path, comfyui_path):
    files, fps = [], Fraction(24000, 1001)
    frames = torch.tensor([200, 100, 50]).float()[:, None, None].expand(3, 48, 64)[None].repeat(40, 1, 1, 1) / 255
    for format in (VideoFormat(audio_codec="flac"), FFV1):
        (tmp_path / format.codec).mkdir()
        files.append(tmp_path / format.codec / f"joined{format.suffix}")
        audio = Audio(noise(2, 80_000), 48000)
        join_segments(files[-1], segments(tmp_path / format.codec, fps, format, frames), fps, format, audio, METADATA)
    environment = os.environ | {"PYTHONPATH": str(comfyui_path)}
    done = subprocess.run([sys.executable, "-c", READ, *map(str, files)], env=environment, capture_output=True, text=True, check=True, timeout=120)
    for count, images, rate, duration, waveform, pixel, metadata in json.loads(done.stdout.splitlines()[-1]).values():
        assert (count, images, rate) == (40, 40, "24000/1001")
        assert duration == pytest.approx(float(40 / fps), abs=1e-3)
        assert waveform == [1, 2, 80_000]
        assert pixel == pytest.approx([200 / 255, 100 / 255, 50 / 255], abs=3 / 255)
        assert metadata.items() >= METADATA.items()


@FORMATS
def test_metadata_is_held_under_its_names_in_mkv_in_capitals(tmp_path, format):
    join_segments(tmp_path / "joined", segments(tmp_path, Fraction(25), format), Fraction(25), format, None, METADATA)
    with av.open(str(tmp_path / "joined")) as container:
        assert {name: container.metadata[name.upper() if format == MKV else name] for name in METADATA} == METADATA
    if format != MKV:
        content = (tmp_path / "joined").read_bytes()
        assert content.index(b"moov") < content.index(b"mdat"), "players would have to load all of it before the first picture"


def cut_off(folder):
    path = segments(folder, Fraction(25), H264)[0]
    path.write_bytes(path.read_bytes()[:-500])
    return path


def without_its_first_picture(folder):
    path, longer = folder / "late.mp4", segments(folder, Fraction(25), H264)[0]
    with av.open(str(longer)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in list(source.demux(video=0))[1:]:
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return path


def written(folder, fps=Fraction(25), format=H264, frames=None):
    path = folder / "foreign"
    write_segment(path, moving(4) if frames is None else frames, fps, format)
    return path


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        (lambda folder: written(folder, frames=moving(4, 32, 64)), r"expected h264 in yuv420p, 64x48 at 25 .*, got h264 in yuv420p, 64x32 at 25"),
        (lambda folder: written(folder, fps=Fraction(24)), "got h264 in yuv420p, 64x48 at 24 "),
        (lambda folder: written(folder, format=VideoFormat(pixel_format="yuv444p")), "got h264 in yuv444p"),
        (lambda folder: written(folder, format=FFV1), "got ffv1 in bgr0"),
        (cut_off, "is cut off|missing, damaged"),
        (without_its_first_picture, "without a gap"),
        (lambda folder: folder / "nowhere.mp4", "nowhere.mp4 is missing, damaged or not a video"),
        (lambda folder: Path(__file__), "is missing, damaged or not a video"),
    ],
)
def test_a_foreign_or_damaged_segment_is_refused_and_nothing_is_written(tmp_path, foreign, message):
    (tmp_path / "other").mkdir()
    parts = [*segments(tmp_path, Fraction(25), H264), foreign(tmp_path / "other")]
    with pytest.raises(InputError, match=message):
        join_segments(tmp_path / "out" / "joined.mp4", parts, Fraction(25), H264)
    assert list((tmp_path / "out").iterdir()) == []


def test_cancelling_leaves_the_file_that_was_there(tmp_path):
    class Cancelled(Exception):
        pass

    def check_interrupt():
        if done:
            raise Cancelled

    done, path = [], tmp_path / "out" / "joined.mp4"
    path.parent.mkdir()
    path.write_text("before")
    with pytest.raises(Cancelled):
        join_segments(
            path,
            segments(tmp_path, Fraction(25), H264),
            Fraction(25),
            H264,
            host=Host(lambda *args: done.append(args), check_interrupt),
        )
    assert done == [(1, len(CUTS))] and path.read_text() == "before" and list(path.parent.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 100 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name == "nt" or os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(folder)], check=False).returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@FORMATS
def test_a_full_disk_is_one_clear_error_and_leaves_no_file(tmp_path, small_disk, format):
    frames = torch.rand(40, 3, 48, 64)
    with pytest.raises(StorageError, match=r"joined could not be written \(No space left on device\): [\d.]+ kB were written.* free some space"):
        join_segments(small_disk / "joined", segments(tmp_path, Fraction(25), format, frames), Fraction(25), format, Audio(noise(2, 90_000), 48000))
    with pytest.raises(StorageError, match="segment could not be written"):
        write_segment(small_disk / "segment", torch.rand(16, 3, 128, 128), Fraction(25), format)
    assert list(small_disk.iterdir()) == []
    (small_disk / "fits").write_bytes(bytes(80_000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "h265"}, "codec: expected h264, ffv1, got h265"),
        ({"crf": 52}, "crf: expected a whole number from 0"),
        ({"crf": -1}, "crf"),
        ({"crf": 18.5}, "crf"),
        ({"codec": "ffv1", "crf": 18}, "crf: ffv1 is lossless"),
        ({"pixel_format": "bgr0"}, "pixel_format of h264: expected yuv420p, yuv444p, got bgr0"),
        ({"audio_codec": "mp3"}, "audio_codec of mp4: expected aac, flac, pcm, got mp3"),
        ({"codec": "ffv1", "container": "mkv", "audio_codec": "aac"}, "audio_codec of mkv: expected flac, pcm, got aac"),
        ({"container": "mkv"}, "container of h264: expected mp4, got mkv"),
    ],
)
def test_formats_that_do_not_exist(options, message):
    with pytest.raises(InputError, match=message):
        VideoFormat(**options)


@pytest.mark.parametrize(
    ("format", "height", "width", "audio", "message"),
    [
        (H264, 513, 512, None, "height: .* got 513. Choose 512 or 514, or the pixel_format yuv444p"),
        (H264, 512, 1, None, "width: .* got 1. Choose 2, or the"),
        (VideoFormat("ffv1", pixel_format="yuv420p"), 512, 33, None, "Choose 32 or 34"),
        (FFV1, 0, 512, None, "height: expected 1 to 16384 pixels, got 0"),
        (H264, 512, 512, Audio(torch.zeros(8, 1), 48000), "1 to 7 channels, got 8. Mix"),
        (H264, 512, 512, Audio(torch.zeros(1, 1), 192000), "got 192000. Choose the audio_codec flac or pcm"),
        (VideoFormat(audio_codec="flac"), 512, 512, Audio(torch.zeros(1, 1), 96001), "flac cannot store 96001"),
    ],
)
def test_pictures_and_sound_that_a_format_does_not_take(tmp_path, format, height, width, audio, message):
    with pytest.raises(InputError, match=message):
        format.check(height, width, audio)


def test_odd_sizes_and_no_frames(tmp_path):
    with pytest.raises(InputError, match="got 33. Choose 32 or 34"):
        write_segment(tmp_path / "s", moving(2, 48, 33), Fraction(25), H264)
    with pytest.raises(InputError, match=r"frames: expected one or more, of shape \(f, 3, h, w\), got \[0, 3, 8, 8\]"):
        write_segment(tmp_path / "s", torch.zeros(0, 3, 8, 8), Fraction(25), H264)
    with pytest.raises(InputError, match="segments: expected one or more"):
        join_segments(tmp_path / "s", [], Fraction(25), H264)
    write_video(tmp_path / "odd", moving(2, 31, 33), Fraction(25), None, VideoFormat(pixel_format="yuv444p"))
    assert pictures(tmp_path / "odd")[0].shape == (2, 31, 33, 3)


def test_an_encoder_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(formats.ENCODERS, "h264", "libx264_of_another_build")
    with pytest.raises(MissingPackageError, match="without libx264_of_another_build, which writes h264: choose the codec ffv1"):
        H264.check(64, 64)
    FFV1.check(64, 64)


@pytest.mark.parametrize("format", [H264, VideoFormat(crf=30), FFV1], ids=["crf18", "crf30", "ffv1"])
def test_the_expected_size_is_about_right(tmp_path, format):
    photograph = Image.open(Path(__file__).resolve().parents[2] / "assets" / "portrait.jpg").convert("RGB").resize((272, 272))
    shifted = [photograph.transform((256, 256), Image.Transform.AFFINE, (1, 0, 8 + 3 * np.sin(k / 9), 0, 1, 8), 3) for k in range(16)]
    frames = torch.from_numpy(np.stack([np.asarray(picture) for picture in shifted])).movedim(-1, 1) / 255
    frames = (frames + torch.randn(frames.shape, generator=torch.Generator().manual_seed(0)) / 255).clamp(0, 1)
    audio = Audio(noise(1, 10_000), 16000)
    write_video(tmp_path / "v", frames, Fraction(25), audio, format)
    assert 0.5 < (tmp_path / "v").stat().st_size / format.expected_bytes(16, 256, 256, audio) < 2


def write_loud(folder: str, name: str) -> None:
    write_video(Path(folder) / "loud.mp4", moving(4), Fraction(25), Audio(LOUD[name], 16000), VideoFormat())


LOUD = {
    "noise": (torch.rand(1, 16000, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 2**23,
    "clicks": torch.zeros(1, 16000).index_fill(1, torch.arange(0, 16000, 500), 8e6),
    "a tone": (1e9 * torch.sin(torch.arange(16000) * 0.1))[None],
    "as loud as it may be": torch.full((2, 16000), -(2.0**31)),
}
"""From such samples ffmpeg's AAC encoder does not come back."""


@pytest.mark.parametrize("name", LOUD)
def test_a_loud_sound_does_not_keep_the_encoder_for_ever(tmp_path, name):
    process = multiprocessing.get_context("fork").Process(target=write_loud, args=(str(tmp_path), name))
    process.start()
    process.join(60)
    alive = process.is_alive()
    process.kill()
    assert not alive and process.exitcode == 0
    assert np.abs(sound(tmp_path / "loud.mp4")[0]).max() < 8, "what is lost in AAC adds some to 1"


@pytest.mark.parametrize("codec", ["aac", "flac", "pcm"])
def test_samples_beyond_full_scale_are_clipped_where_a_codec_holds_no_more(tmp_path, codec):
    audio = Audio(torch.linspace(-3, 3, 16000)[None], 16000)
    write_video(tmp_path / "v.mp4", moving(4), Fraction(25), audio, VideoFormat(audio_codec=codec))
    heard, _ = sound(tmp_path / "v.mp4")
    if codec == "pcm":
        assert np.array_equal(heard, audio.waveform.numpy())
    if codec == "flac":
        assert np.abs(heard - audio.waveform.clamp(-1, 1).numpy()).max() < 1e-6
    if codec == "aac":
        assert np.abs(heard).max() < 2


@pytest.mark.parametrize("codec", ["aac", "flac", "pcm"])
@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.full((1, 16000), float("nan")), "16000 of 16000 samples are NaN or infinite"),
        (torch.full((2, 9), float("inf")), "18 of 18 samples are NaN or infinite"),
        (torch.zeros(1, 16000, dtype=torch.int16), "expected floating-point samples in .-1, 1., got torch.int16"),
        (torch.zeros(1, 16000, dtype=torch.bool), "expected floating-point samples in .-1, 1., got torch.bool"),
        (torch.zeros(1, 0), "is empty: 1 channels of 0 samples"),
        (torch.zeros(0, 9), "is empty: 0 channels of 9 samples"),
        (torch.zeros(1, 9).to_sparse(), "expected a plain tensor, got a sparse_coo one"),
        (torch.zeros(1, 9, device="meta"), "expected a tensor with values"),
        (np.zeros((1, 9), np.float32), "expected a waveform as a tensor, got ndarray"),
    ],
    ids=["NaN", "infinite", "int16", "bool", "no samples", "no channels", "sparse", "meta", "numpy"],
)
def test_no_writer_takes_a_broken_sound(tmp_path, codec, waveform, message):
    audio, format = Audio(waveform, 16000), VideoFormat(audio_codec=codec)
    write_segment(tmp_path / "part", moving(4), Fraction(25), format)
    for write in (
        lambda: write_video(tmp_path / "v.mp4", moving(4), Fraction(25), audio, format),
        lambda: join_segments(tmp_path / "v.mp4", [tmp_path / "part"], Fraction(25), format, audio),
        lambda: write_pictures(tmp_path / "v.mp4", iter(()), (48, 64), Fraction(25), format, audio),
        lambda: SoundTrack(None, audio, codec),
    ):
        with pytest.raises(InputError, match=f"^sound:? {message}"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


@pytest.mark.parametrize(
    ("peak", "codec", "said"),
    [
        (1.0, "aac", ""),
        (1.5, "aac", "got up to 1.5; what is beyond is clipped in aac. Lower its volume, or choose the audio_codec pcm, which keeps them."),
        (1.5, "flac", "clipped in flac."),
        (128, "aac", "Is it 8-bit integers that nobody scaled? Then divide it by 128."),
        (32768, "aac", "got up to 32768; what is beyond is clipped in aac. Is it 16-bit integers that nobody scaled? Then divide it by 32768."),
        (8e6, "flac", "Is it 24-bit integers"),
        (2.0**31, "aac", "Is it 32-bit integers"),
        (1e6, "pcm", ""),
    ],
)
def test_what_is_clipped_is_said(peak, codec, said):
    note = VideoFormat(audio_codec=codec).clipped(Audio(torch.tensor([[0.0, -peak]]), 16000))
    assert said in note and bool(note) == bool(said)
    assert not note or note.startswith("sound: expected samples in [-1, 1], ")


@pytest.mark.parametrize("rate", [1000, 7350, 16000, 22050, 44100, 65535, 65536, 96000, 96001, 192000, 500001, 655350, 1_000_000])
@pytest.mark.parametrize("codec", ["aac", "flac", "pcm"])
def test_a_rate_is_stored_or_the_advice_can_be_followed(tmp_path, codec, rate):
    audio = Audio(torch.rand(1, 3000, generator=torch.Generator().manual_seed(0)) - 0.5, rate)
    try:
        write_video(tmp_path / "v.mp4", moving(4), Fraction(25), audio, VideoFormat(audio_codec=codec))
    except InputError as error:
        advice = str(error).partition("Choose the audio_codec ")[2].rstrip(".")
        assert advice and codec not in advice, str(error)
        for other in advice.split(" or "):
            write_video(tmp_path / "v.mp4", moving(4), Fraction(25), audio, VideoFormat(audio_codec=other))
            assert sound(tmp_path / "v.mp4")[0].shape[-1] >= 3000


def test_a_long_sound_can_be_stopped_while_it_is_written(tmp_path, monkeypatch):
    """It is far longer than the pictures: most of it is written after the last."""
    written, frame = [], SoundTrack._frame

    def check_interrupt() -> None:
        if len(written) == 100:  # not while it is looked at before
            raise Stopped

    monkeypatch.setattr(SoundTrack, "_frame", lambda track, samples: written.append(None) or frame(track, samples))
    write_segment(tmp_path / "part", moving(4), Fraction(25), VideoFormat())
    audio = Audio(torch.zeros(1, 1).expand(1, 900 * 16000), 16000)
    with pytest.raises(Stopped):
        join_segments(tmp_path / "v.mp4", [tmp_path / "part"], Fraction(25), VideoFormat(), audio, host=Host(check_interrupt=check_interrupt))
    assert len(written) == 100
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    ("codec", "channels", "rate", "made", "note"),
    [
        ("aac", 1, 16000, (1, 16000), ""),
        ("aac", 2, 96000, (2, 96000), ""),
        ("aac", 1, 192000, (1, 48000), "aac stores it with 48000 samples per second instead of 192000."),
        ("aac", 2, 11000, (2, 11025), "aac stores it with 11025 samples per second instead of 11000."),
        ("aac", 1, 7000, (1, 7350), "aac stores it with 7350 samples per second instead of 7000."),
        ("aac", 1, 37800, (1, 44100), "aac stores it with 44100 samples per second instead of 37800."),
        ("aac", 1, 50000, (1, 48000), "aac stores it with 48000 samples per second instead of 50000."),
        ("aac", 7, 48000, (7, 48000), ""),
        ("aac", 8, 48000, (1, 48000), "aac stores it with its 8 channels mixed to one."),
        ("aac", 12, 384000, (1, 48000), "aac stores it with its 12 channels mixed to one and 48000 samples per second instead of 384000."),
        ("flac", 1, 192000, (1, 192000), ""),
        ("flac", 1, 96001, (1, 48000), "flac stores it with 48000 samples per second instead of 96001."),
        ("pcm", 9, 96001, (1, 96001), "pcm stores it with its 9 channels mixed to one."),
    ],
)
def test_sound_that_a_format_does_not_take_is_made_fit(tmp_path, codec, channels, rate, made, note):
    format, sine = VideoFormat(audio_codec=codec), 0.5 * torch.sin(2 * torch.pi * 300 * torch.arange(rate // 2) / rate)
    given = torch.zeros(channels, rate // 2)
    given[-1] = sine  # in one of them alone
    audio, said = format.fitted(Audio(given, rate))
    assert (*audio.waveform.shape[:1], audio.sample_rate) == made and said == (note and f"sound: {note}")
    assert audio.waveform.abs().amax() == pytest.approx(0.5, abs=5e-3)
    format.check(64, 64, audio)
    write_video(tmp_path / "v", moving(12), Fraction(25), audio, format)
    heard, at = sound(tmp_path / "v")
    assert (len(heard), at) == made
    middle = heard[-1, len(heard[-1]) // 4 : len(heard[-1]) * 3 // 4]
    assert np.sqrt(np.square(middle).mean()) == pytest.approx(0.5 / np.sqrt(2), abs=0.02)
    assert heard.shape[1] / at == pytest.approx(0.5, abs=2048 / at + 1e-3)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg to play it with")
@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 44100), (6, 48000), (2, 192000)])
def test_sound_beside_ffv1_plays_in_the_ffmpeg_of_this_system(tmp_path, channels, rate):
    """That of Debian 12 (5.1) is silent on float samples in mp4."""
    waveform = torch.randint(-(2**15), 2**15, (channels, rate)) / 2.0**15
    write_video(tmp_path / "v.mp4", moving(25), Fraction(25), Audio(waveform, rate), FFV1)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "v.mp4", "-map", "0:a", "-f", "f32le", "-"]
    played = subprocess.run(command, capture_output=True, check=True)
    assert np.array_equal(np.frombuffer(played.stdout, np.float32).reshape(-1, channels).T, waveform.numpy()) and not played.stderr


@pytest.mark.parametrize("audio_codec", ["", *dict.fromkeys(codec for codecs in formats.AUDIO_CODECS.values() for codec in codecs)])
@pytest.mark.parametrize("pixel_format", ["", "yuv420p", "yuv444p", "bgr0"])
@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_every_codec_with_every_other(tmp_path, codec, pixel_format, audio_codec):
    """The file has in it what was chosen, or the sentence names what goes with the codec."""
    if pixel_format not in ("", *formats.PIXEL_FORMATS[codec]):
        with pytest.raises(InputError, match=f"^pixel_format of {codec}: expected {', '.join(formats.PIXEL_FORMATS[codec])}, got {pixel_format}"):
            VideoFormat(codec, None, pixel_format, audio_codec)
        return
    write_video(tmp_path / "v.mp4", moving(4), Fraction(25), Audio(noise(2, 8000), 16000), VideoFormat(codec, None, pixel_format, audio_codec))
    with av.open(str(tmp_path / "v.mp4")) as container:
        [video], [heard] = container.streams.video, container.streams.audio
        chosen = audio_codec or {"h264": "aac", "ffv1": "flac"}[codec]
        assert (video.codec.canonical_name, heard.codec.canonical_name) == (codec, formats.ENCODERS[chosen])
        assert pixel_format in ("", video.codec_context.pix_fmt)
