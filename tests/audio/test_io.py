"""Decoding, checking, mixing and resampling of waveforms."""

import gc
import io
import math
import multiprocessing
import wave

import av
import numpy as np
import pytest
import torch

from memo_modules.audio.io import alone, decode, mixed_down, mixing_note, mono, resample, silence_note, validate
from memo_modules.errors import InputError
from memo_modules.types import Audio


def tone(hertz: float, rate: int, samples: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(samples, dtype=torch.float64) / rate).float()


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    """A 16-bit WAV of int16 (samples channels)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def encoded(codec: str, container_format: str, waveform: np.ndarray, layout: str, rate: int, sample_format: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(waveform, format=sample_format, layout=layout)
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        fifo.write(frame)
        while block := fifo.read(1024, partial=True):
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 8, 12])
def test_decode_gives_the_samples_of_every_channel(tmp_path, channels):
    samples = np.random.default_rng(0).integers(-32768, 32768, (1234, channels), dtype=np.int16)
    path = tmp_path / "une voix é 声.wav"
    path.write_bytes(wav_bytes(samples, 22050))
    for source in (path, path.read_bytes()):
        audio = decode(source)
        assert audio.sample_rate == 22050
        assert torch.equal(audio.waveform, torch.from_numpy(samples.T.astype(np.float32) / 32768))


@pytest.mark.parametrize(
    "codec, container, layout, sample_format, channels",
    [("flac", "flac", "5.1", "s16", 6), ("aac", "mp4", "stereo", "fltp", 2), ("libmp3lame", "mp3", "mono", "fltp", 1)],
)
def test_decode_reads_compressed_formats(codec, container, layout, sample_format, channels):
    one = tone(440, 48000, 48000).numpy() / 2
    packed = sample_format == "s16"
    waveform = np.repeat((one * 32767).astype(np.int16), channels)[None] if packed else np.repeat(one[None], channels, axis=0)
    audio = decode(encoded(codec, container, waveform, layout, 48000, sample_format))
    assert audio.sample_rate == 48000 and audio.waveform.dtype == torch.float32
    assert audio.waveform.shape[0] == channels and abs(audio.waveform.shape[1] - 48000) < 3000
    middle = audio.waveform[:, 12000:36000]
    assert torch.allclose(middle.abs().amax(dim=1), torch.full((channels,), 0.5), atol=0.03)  # LAME turns it down by 5 %
    spectrum = torch.fft.rfft(middle).abs()
    assert (spectrum.argmax(dim=1) == 440 * 24000 // 48000).all()


def video_without_sound() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 16
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "source, message",
    [
        (b"this is not sound" * 99, "cannot be decoded"),
        (video_without_sound(), "no audio stream"),
        (wav_bytes(np.zeros((0, 1), np.int16), 16000), "no samples"),
    ],
)
def test_decode_refuses_what_holds_no_sound(source, message):
    with pytest.raises(InputError, match=message):
        decode(source)


def test_decode_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="gone.wav"):
        decode(tmp_path / "gone.wav")


@pytest.mark.parametrize(
    "waveform, rate, message",
    [
        (torch.zeros(100), 16000, r"shape \[100\]"),
        (torch.zeros(1, 1, 100), 16000, r"shape \[1, 1, 100\]"),
        (torch.zeros(1, 0), 16000, "is empty"),
        (torch.zeros(0, 100), 16000, "is empty"),
        (torch.zeros(1, 100, dtype=torch.int16), 16000, "int16"),
        (torch.full((2, 100), float("nan")), 16000, "200 of 200 samples are NaN or infinite"),
        (torch.tensor([[0.0, float("inf")]]), 16000, "1 of 2 samples are NaN or infinite"),
        (torch.zeros(1, 100), 0, "sample rate of 1000 to 1000000 Hz, got 0"),
    ],
)
def test_validate_names_the_input(waveform, rate, message):
    with pytest.raises(InputError, match=f"speech.*{message}"):
        validate(Audio(waveform, rate), "speech")


def test_mono_is_the_mean_of_the_channels():
    audio = mono(Audio(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-0.25, 0.75]]), 8000))
    assert torch.equal(audio.waveform, torch.tensor([[0.25, 0.25]])) and audio.sample_rate == 8000


@pytest.mark.parametrize("samples", [1, 10, 999, 30011])
@pytest.mark.parametrize("old, new", [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 44100), (44101, 16000), (192000, 16000), (96000, 44100)])
def test_resample_length(old, new, samples):
    resampled = resample(Audio(torch.zeros(2, samples), old), new)
    assert resampled.sample_rate == new and resampled.waveform.shape == (2, math.ceil(samples * new / old))


@pytest.mark.parametrize("old, new", [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 44100), (44101, 16000)])
def test_resample_keeps_a_tone_in_place(old, new):
    length = 3 * old + 17
    resampled = resample(Audio(torch.stack([tone(440, old, length), tone(1000, old, length)]), old), new).waveform
    expected = torch.stack([tone(440, new, resampled.shape[1]), tone(1000, new, resampled.shape[1])])
    middle = slice(new // 100, -new // 100)
    assert (resampled - expected)[:, middle].abs().max() < 1e-4


def test_resample_lets_nothing_above_the_new_range_through():
    resampled = resample(Audio(tone(12000, 44100, 44100)[None], 44100), 16000).waveform[0, 200:-200]
    assert resampled.abs().max() < 1e-3


def test_resample_keeps_the_last_samples():
    waveform = torch.zeros(1, 44100)
    waveform[:, -441:] = tone(300, 44100, 441)
    tail = resample(Audio(waveform, 44100), 16000).waveform[0, -160:]
    assert (tail[10:-10] - tone(300, 16000, 160)[10:-10]).abs().max() < 0.05
    assert tail[-20:].abs().max() > 0.1


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes are not forked here")
def test_a_process_forked_after_one_that_resampled_ends():
    """What PyAV keeps of it waits, when it is collected, for threads that only the first process has."""
    gc.disable()
    try:
        resample(Audio(tone(440, 48000, 4800)[None], 48000), 16000)
        decode(wav_bytes(np.zeros((480, 2), np.int16), 48000))
        child = multiprocessing.get_context("fork").Process(target=gc.collect)
        child.start()
    finally:
        gc.enable()
    child.join(30)
    child.kill()
    assert child.exitcode == 0


VOICE = torch.randn(1, 32000, generator=torch.Generator().manual_seed(1)) * 0.1
OTHER = torch.randn(1, 32000, generator=torch.Generator().manual_seed(2)) * 0.1


@pytest.mark.parametrize(
    ("channels", "kept"),
    [
        ([VOICE, -VOICE], 0),
        ([VOICE, -0.9 * VOICE], 0),
        ([0.8 * VOICE, -VOICE], 1),
        ([VOICE + 0.1 * OTHER, -VOICE + 0.1 * OTHER], None),  # None: whichever is the louder one
        ([0 * VOICE, VOICE, -VOICE, 0 * VOICE], 1),
        ([VOICE, -VOICE, 0 * VOICE, 0 * VOICE, 0 * VOICE, 0 * VOICE], 0),
    ],
    ids=["inverted", "fainter", "louder", "over a room", "four channels", "5.1"],
)
def test_of_channels_that_cancel_each_other_one_is_listened_to(channels, kept):
    audio = Audio(torch.cat(channels), 16000)
    found = alone(audio)
    assert found in ((kept,) if kept is not None else (0, 1))
    assert torch.equal(mono(audio).waveform, audio.waveform[found : found + 1])
    assert mixing_note(audio, "vocals") == (
        f"vocals: its channels cancel each other, as if one was inverted: channel {found + 1} alone is listened to."
    )


@pytest.mark.parametrize(
    "channels",
    [[VOICE], [VOICE, VOICE], [VOICE, OTHER], [VOICE, 0 * VOICE], [VOICE, -0.3 * VOICE], [0 * VOICE] * 7 + [VOICE], [0 * VOICE] * 2],
    ids=["mono", "the same", "two voices", "one silent", "little of it inverted", "one of eight", "silence"],
)
def test_other_channels_are_mixed(channels):
    audio = Audio(torch.cat(channels), 16000)
    assert alone(audio) is None and mixing_note(audio) == ""
    assert torch.allclose(mono(audio).waveform, torch.cat(channels).mean(dim=0, keepdim=True))


def test_mixing_down_keeps_the_level():
    """Of one voice in eight channels, of a voice in all of them, and of an inverted one; silence stays silence."""
    for channels in ([0 * VOICE] * 7 + [VOICE], [VOICE] * 8, [VOICE, -VOICE] * 4):
        assert torch.allclose(mixed_down(Audio(torch.cat(channels), 16000)).waveform, VOICE, atol=1e-6)
    assert torch.equal(mixed_down(Audio(torch.zeros(8, 100), 16000)).waveform, torch.zeros(1, 100))


@pytest.mark.parametrize(
    ("channels", "silent"),
    [
        ([0 * VOICE], True),
        ([0 * VOICE + 0.3], True),
        ([0 * VOICE + 0.3, 0 * VOICE - 0.3], True),
        ([1e-5 * VOICE], True),
        ([VOICE], False),
        ([0.5 + 0.1 * VOICE], False),
        ([VOICE, -VOICE], False),
        ([0 * VOICE] * 15 + [0.01 * VOICE], False),
    ],
    ids=["silence", "a constant", "two constants", "far too faint", "a voice", "a voice on a constant", "inverted", "one of sixteen, faint"],
)
def test_a_sound_in_which_nothing_is_heard_is_said(channels, silent):
    said = silence_note(Audio(torch.cat(channels), 16000), "vocals")
    assert said == ("vocals: nothing is heard in it. Of a file with several tracks Load Audio reads the first." if silent else "")
