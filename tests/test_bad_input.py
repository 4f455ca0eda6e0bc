"""What users feed it: each row an input, bad or unusual, and the whole sentence that it gets, or what comes out right.

The rows of sockets and widgets are in comfyui/test_inputs.py, those of damaged model files in test_bad_files.py.
"""

import io
import math
import wave
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from memo_modules.audio import io as audio_io
from memo_modules.audio.emotion import constant_emotion, detect_emotion, load_emotion_classifier
from memo_modules.audio.emotion2vec import load_emotion2vec
from memo_modules.audio.features import encode_audio, load_audio_encoder, prepare_waveform
from memo_modules.clips import frame_rate
from memo_modules.errors import InputError
from memo_modules.models.layers import Layers
from memo_modules.portrait.face import embed_face
from memo_modules.portrait.pictures import prepare_portrait, rgb_picture
from memo_modules.sampler.sampling import MemoNets, sample_video
from memo_modules.sampler.solvers import check_sigmas, flow_sigmas
from memo_modules.types import Audio, AudioFeatures, EmotionTrack, Face, SamplerSettings, frame_labels
from memo_modules.vae import DiffusersVAE, load_autoencoder
from memo_modules.weights.checkpoints import NETS, load_net

NAN, INF = float("nan"), float("inf")
FPS = Fraction(30)
Rows = dict[str, tuple[Callable, str | Callable]]
"""Name to the call, and the sentence of its InputError or a check of its result."""

ALPHA = " Remove the alpha channel with Split Image with Alpha."
INVALID = "Invalid data found when processing input"


def no_sample_rate(got: str) -> str:
    return f"audio: expected a sample rate of 1000 to 1000000 Hz, got {got}."


def undecodable(reason: str) -> str:
    return f"audio cannot be decoded ({reason}). Choose a sound file such as WAV, FLAC, MP3 or M4A."


def no_rgb_picture(shape: str, hint: str = "") -> str:
    return f"image: expected one RGB picture (1, height, width, 3), got shape {shape}.{hint}"


def no_rate(got: str) -> str:
    return f"fps: expected a number of frames per second from 1 to 240, got {got}."


def unusable_sigmas(got: str) -> str:
    return (
        f"sigmas: expected at least two falling numbers between 1 and 0, got {got} ... "
        "MEMO is a flow model: set sigma_max to 1 in the scheduler node."
    )


def tone(samples: int = 16000, rate: int = 16000, channels: int = 1, gain: float = 0.3) -> Tensor:
    time = torch.arange(samples, dtype=torch.float64) / rate
    return (gain * torch.sin(2 * math.pi * 220 * time)).float().expand(channels, -1)


TONE, _ = prepare_waveform(Audio(tone(), 16000), FPS, 16, "exact")


def encoder_input(waveform: object, rate: object = 16000, fps: Fraction = FPS, timing: str = "exact") -> tuple[Tensor, int]:
    return prepare_waveform(Audio(waveform, rate), fps, 16, timing)


def one_second(close: float = 1e-3) -> Callable:
    """Of the tone, whatever it came as: it sounds the same to the encoder."""

    def check(result: tuple[Tensor, int]) -> bool:
        waveform, frames = result
        middle = slice(200, 15800)
        return frames == 32 and waveform.shape == TONE.shape and (waveform - TONE)[:, middle].abs().max() < close

    return check


def with_value(value: float, at: int = 5) -> Tensor:
    waveform = tone().clone()
    waveform[0, at] = value
    return waveform


def silent(result: tuple[Tensor, int]) -> bool:
    return not result[0].any() and result[1] == 32


def frames(count: int) -> Callable:
    return lambda result: result[1] == count and bool(torch.isfinite(result[0]).all())


AUDIO: Rows = {
    "nothing": (partial(encoder_input, None), "audio: expected a waveform as a tensor, got NoneType."),
    "a list": (partial(encoder_input, [0.0] * 16000), "audio: expected a waveform as a tensor, got list."),
    "numpy": (partial(encoder_input, np.zeros((1, 16000), np.float32)), "audio: expected a waveform as a tensor, got ndarray."),
    "one dimension": (partial(encoder_input, tone()[0]), "audio: expected one waveform of shape (channels, samples), got shape [16000]."),
    "a batch": (partial(encoder_input, tone()[None]), "audio: expected one waveform of shape (channels, samples), got shape [1, 1, 16000]."),
    "no samples": (partial(encoder_input, torch.zeros(2, 0)), "audio is empty: 2 channels of 0 samples. Load a file with sound."),
    "no channels": (partial(encoder_input, torch.zeros(0, 100)), "audio is empty: 0 channels of 100 samples. Load a file with sound."),
    "one sample": (
        partial(encoder_input, torch.zeros(1, 1)),
        "audio is shorter than one frame: 1 samples at 16000 Hz; at 30 fps a frame takes 533.333. Use longer audio.",
    ),
    "a sample less than a frame": (
        partial(encoder_input, tone(533)),
        "audio is shorter than one frame: 533 samples at 16000 Hz; at 30 fps a frame takes 533.333. Use longer audio.",
    ),
    "a frame": (partial(encoder_input, tone(534)), frames(16)),
    "NaN": (partial(encoder_input, with_value(NAN)), "audio: 1 of 16000 samples are NaN or infinite. Look at the step that made this audio."),
    "all NaN": (
        partial(encoder_input, torch.full((2, 16000), NAN)),
        "audio: 32000 of 32000 samples are NaN or infinite. Look at the step that made this audio.",
    ),
    "infinite": (partial(encoder_input, with_value(-INF)), "audio: 1 of 16000 samples are NaN or infinite. Look at the step that made this audio."),
    "beyond every scale": (
        partial(encoder_input, with_value(1e20)),
        "audio: expected samples in [-1, 1], got up to 1e+20. Look at the step that made this audio.",
    ),
    "double beyond float": (
        partial(encoder_input, with_value(0).double() * 1e300),
        "audio: expected samples in [-1, 1], got up to 3e+299. Look at the step that made this audio.",
    ),
    "clipped": (partial(encoder_input, tone(gain=3).clamp(-1, 1)), lambda result: bool(torch.isfinite(result[0]).all())),
    "louder than full scale": (partial(encoder_input, tone(gain=4)), one_second()),
    "of integer scale": (partial(encoder_input, tone(gain=32767)), one_second()),
    "of 32-bit scale": (partial(encoder_input, tone(gain=2.0**31)), one_second()),
    "very quiet": (partial(encoder_input, tone(gain=0.01)), one_second(2e-2)),
    "silence": (partial(encoder_input, torch.zeros(1, 16000)), silent),
    "constant": (partial(encoder_input, torch.full((1, 16000), 0.7)), silent),
    "16-bit integers": (
        partial(encoder_input, (tone() * 32767).to(torch.int16)),
        "audio: expected floating-point samples in [-1, 1], got torch.int16. Scale them first.",
    ),
    "unsigned bytes": (
        partial(encoder_input, torch.full((1, 16000), 128, dtype=torch.uint8)),
        "audio: expected floating-point samples in [-1, 1], got torch.uint8. Scale them first.",
    ),
    "complex numbers": (
        partial(encoder_input, tone().to(torch.complex64)),
        "audio: expected floating-point samples in [-1, 1], got torch.complex64. Scale them first.",
    ),
    "half precision": (partial(encoder_input, tone().half()), one_second(5e-3)),
    "bfloat16": (partial(encoder_input, tone().bfloat16()), one_second(3e-2)),
    "double precision": (partial(encoder_input, tone().double()), one_second()),
    "a part of a tensor": (partial(encoder_input, tone(32000, 16000)[:, :16000]), one_second()),
    "with gradient": (partial(encoder_input, tone(44100, 44100).clone().requires_grad_(), 44100), one_second()),
    "two channels": (partial(encoder_input, tone(channels=2)), one_second()),
    "8 channels": (partial(encoder_input, tone(channels=8)), one_second()),
    "samples before channels": (
        partial(encoder_input, tone().T),
        "audio: expected at most 64 channels, got 16000 of 1 samples. Are channels and samples swapped?",
    ),
    "opposite channels": (partial(encoder_input, torch.cat([tone(), -tone()])), one_second()),
    "8 kHz": (partial(encoder_input, tone(8000, 8000), 8000), one_second()),
    "11.025 kHz": (partial(encoder_input, tone(11025, 11025), 11025), one_second()),
    "44.1 kHz": (partial(encoder_input, tone(44100, 44100), 44100), one_second()),
    "48 kHz, 6 channels": (partial(encoder_input, tone(48000, 48000, 6), 48000), one_second()),
    "192 kHz": (partial(encoder_input, tone(192000, 192000), 192000), one_second()),
    "a prime rate": (partial(encoder_input, tone(44101, 44101), 44101), one_second()),
    "rate 0": (partial(encoder_input, tone(), 0), no_sample_rate("0")),
    "negative rate": (partial(encoder_input, tone(), -16000), no_sample_rate("-16000")),
    "1 Hz": (partial(encoder_input, tone(), 1), no_sample_rate("1")),
    "a rate of kHz": (partial(encoder_input, tone(), 48), no_sample_rate("48")),
    "a broken rate": (partial(encoder_input, tone(), 44100.5), no_sample_rate("44100.5")),
    "rate NaN": (partial(encoder_input, tone(), NAN), no_sample_rate("nan")),
    "rate None": (partial(encoder_input, tone(), None), no_sample_rate("None")),
    "an endless rate": (partial(encoder_input, tone(), 10**12), no_sample_rate("1000000000000")),
    "another timing": (partial(encoder_input, tone(), timing="late"), "timing: expected one of exact, upstream, got 'late'."),
}


def wav(values: np.ndarray, rate: int = 16000) -> bytes:
    """16 bits, (samples channels)."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.tobytes())
    return buffer.getvalue()


WAV = wav(np.arange(1600, dtype=np.int16)[:, None])
LATIN_TAG = b"LIST\x10\x00\x00\x00INFOINAM\x04\x00\x00\x00caf\xe9"
NEIGHBOURS = b"ffconcat version 1.0\nfile /etc/hostname\n"
ADDRESSES = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.wav\n#EXT-X-ENDLIST\n"

SOUND_FILES: Rows = {
    "empty file": (partial(audio_io.decode, b""), undecodable(INVALID)),
    "text": (partial(audio_io.decode, b"hello " * 200), undecodable(INVALID)),
    "a picture": (partial(audio_io.decode, b"\x89PNG\r\n\x1a\n" + bytes(200)), "audio has no audio stream. Choose a file with sound."),
    "header alone": (partial(audio_io.decode, WAV[:44]), "audio holds no samples. Choose a file with sound."),
    "cut in the header": (partial(audio_io.decode, WAV[:30]), undecodable(INVALID)),
    "cut in the samples": (partial(audio_io.decode, WAV[:-1002]), lambda audio: audio.waveform.shape == (1, 1099)),
    "longer by its header": (partial(audio_io.decode, WAV[:40] + b"\xff\xff\xff\x7f" + WAV[44:]), lambda audio: audio.waveform.shape == (1, 1600)),
    "tag that is no UTF-8": (partial(audio_io.decode, WAV[:36] + LATIN_TAG + WAV[36:]), lambda audio: audio.waveform.shape == (1, 1600)),
    "playlist of other files": (partial(audio_io.decode, NEIGHBOURS), undecodable("Operation not permitted")),
    "playlist of addresses": (partial(audio_io.decode, ADDRESSES), undecodable(INVALID)),
}


def picture(shape: tuple[int, ...] = (1, 96, 128, 3), value: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, value, dtype=dtype)


def portrait(image: object, width: int = 64, height: int = 64) -> Tensor:
    return prepare_portrait(image, width, height)


def all_near(value: float, height: int = 64, width: int = 64, close: float = 1e-6) -> Callable:
    return lambda result: result.shape == (1, 3, height, width) and result.dtype == torch.float32 and (result - value).abs().max() <= close


def with_pixel(value: float) -> Tensor:
    image = picture()
    image[0, 40, 40, 1] = value
    return image


def stays(image: Tensor) -> bool:
    before = image.clone()
    rgb_picture(image)
    return torch.equal(image, before)


IMAGE: Rows = {
    "nothing": (partial(portrait, None), "image: expected a picture as a tensor, got NoneType."),
    "numpy": (partial(portrait, np.zeros((1, 96, 96, 3), np.float32)), "image: expected a picture as a tensor, got ndarray."),
    "transparency": (partial(portrait, picture((1, 96, 96, 4))), no_rgb_picture("[1, 96, 96, 4]", ALPHA)),
    "two channels": (partial(portrait, picture((1, 96, 96, 2))), no_rgb_picture("[1, 96, 96, 2]")),
    "grey": (partial(portrait, picture((1, 96, 128, 1), 0.25)), all_near(-0.5)),
    "grey without channels (a mask)": (partial(portrait, picture((1, 96, 96))), no_rgb_picture("[1, 96, 96]")),
    "channels first": (partial(portrait, picture((1, 3, 96, 96))), no_rgb_picture("[1, 3, 96, 96]")),
    "no batch dimension": (partial(portrait, picture((96, 96, 3))), no_rgb_picture("[96, 96, 3]")),
    "two pictures": (
        partial(portrait, picture((2, 96, 96, 3))),
        "image: expected one picture, got a batch of 2. Pick one with Get Image from Batch.",
    ),
    "no picture": (partial(portrait, picture((0, 96, 96, 3))), "image: expected one picture, got a batch of 0. Pick one with Get Image from Batch."),
    "one pixel": (partial(portrait, picture((1, 1, 1, 3))), "image: expected at least 64 x 64 pixels, got 1 x 1."),
    "no pixels": (partial(portrait, picture((1, 0, 96, 3))), "image: expected at least 64 x 64 pixels, got 96 x 0."),
    "a line": (partial(portrait, picture((1, 63, 4000, 3))), "image: expected at least 64 x 64 pixels, got 4000 x 63."),
    "as small as they come": (partial(portrait, picture((1, 64, 64, 3))), all_near(0)),
    "8K": (partial(portrait, picture((1, 4320, 7680, 3), 0.75, torch.float16)), all_near(0.5)),
    "integers": (
        partial(portrait, picture(value=128, dtype=torch.uint8)),
        "image: expected floating-point values in [0, 1], got torch.uint8. Divide them by 255.",
    ),
    "truth values": (
        partial(portrait, picture(value=True, dtype=torch.bool)),
        "image: expected floating-point values in [0, 1], got torch.bool. Divide them by 255.",
    ),
    "0 to 255": (
        partial(portrait, picture() * 255),
        "image: expected values in [0, 1], got 127.5 to 127.5. Look at the node that made this picture.",
    ),
    "-1 to 1": (partial(portrait, with_pixel(-1.0)), "image: expected values in [0, 1], got -1 to 0.5. Look at the node that made this picture."),
    "sharpened": (partial(portrait, picture(value=1.2)), all_near(1)),
    "darkened": (partial(portrait, picture(value=-0.2)), all_near(-1)),
    "NaN": (partial(portrait, with_pixel(NAN)), "image: some values are NaN or infinite. Look at the node that made this picture."),
    "infinite": (partial(portrait, with_pixel(INF)), "image: some values are NaN or infinite. Look at the node that made this picture."),
    "half precision": (partial(portrait, picture(value=0.25).half()), all_near(-0.5)),
    "bfloat16": (partial(portrait, picture(value=0.25).bfloat16()), all_near(-0.5)),
    "double precision": (partial(portrait, picture(value=0.25).double()), all_near(-0.5)),
    "black": (partial(portrait, picture(value=0.0)), all_near(-1)),
    "the user's own": (partial(stays, with_pixel(1.4)), lambda same: same),
    "width 100": (partial(portrait, picture(), 100), "width: expected a multiple of 8 of at least 64, got 100."),
    "height 0": (partial(portrait, picture(), 64, 0), "height: expected a multiple of 8 of at least 64, got 0."),
    "negative width": (partial(portrait, picture(), -64), "width: expected a multiple of 8 of at least 64, got -64."),
    "height 56": (partial(portrait, picture(), 64, 56), "height: expected a multiple of 8 of at least 64, got 56."),
    "sides no multiple of 64": (partial(portrait, picture(), 72, 104), all_near(0, 104, 72)),
    "face of a batch": (partial(embed_face, None, picture((2, 96, 96, 3))), no_rgb_picture("[1, 2, 96, 96, 3]")),
    "face of transparency": (partial(embed_face, None, picture((96, 96, 4))), no_rgb_picture("[1, 96, 96, 4]", ALPHA)),
    "face of 0 to 255": (
        partial(embed_face, None, picture((96, 96, 3), 255.0)),
        "image: expected values in [0, 1], got 255 to 255. Look at the node that made this picture.",
    ),
}


def sigmas(*values: float) -> Callable:
    return partial(check_sigmas, torch.tensor(values))


def is_rate(rate: Fraction) -> Callable:
    return lambda found: found == rate


def labels(track: EmotionTrack) -> list[int]:
    return frame_labels(track, 4, Fraction(2), "exact")


def track(samples: int) -> EmotionTrack:
    """A second of class 2, then class 4."""
    return EmotionTrack((0, 16000), (2, 4), None, samples, 16000)


SETTINGS: Rows = {
    "fps 0": (partial(frame_rate, 0), no_rate("0")),
    "fps negative": (partial(frame_rate, -25.0), no_rate("-25.0")),
    "fps NaN": (partial(frame_rate, NAN), no_rate("nan")),
    "fps infinite": (partial(frame_rate, INF), no_rate("inf")),
    "fps 1000": (partial(frame_rate, 1000), no_rate("1000")),
    "fps next to nothing": (partial(frame_rate, 1e-9), no_rate("1e-09")),
    "fps in words": (partial(frame_rate, "30"), no_rate("'30'")),
    "fps None": (partial(frame_rate, None), no_rate("None")),
    "fps 23.976": (partial(frame_rate, 24000 / 1001), is_rate(Fraction(24000, 1001))),
    "fps 29.97": (partial(frame_rate, 30000 / 1001), is_rate(Fraction(30000, 1001))),
    "fps 12.5": (partial(frame_rate, 12.5), is_rate(Fraction(25, 2))),
    "no steps": (partial(flow_sigmas, 0), "steps: expected at least 1, got 0."),
    "one step": (partial(flow_sigmas, 1), lambda found: found.tolist() == [1, 0]),
    "one sigma": (sigmas(1.0), unusable_sigmas("1: 1")),
    "no sigmas": (sigmas(), unusable_sigmas("0: ")),
    "rising sigmas": (sigmas(0.0, 0.5, 1.0), unusable_sigmas("3: 0, 0.5, 1")),
    "a sigma twice": (sigmas(1.0, 0.5, 0.5, 0.0), unusable_sigmas("4: 1, 0.5, 0.5, 0")),
    "sigmas of another model": (sigmas(14.6, 3.0, 0.0), unusable_sigmas("3: 14.6, 3, 0")),
    "sigma NaN": (sigmas(1.0, NAN, 0.0), unusable_sigmas("3: 1, nan, 0")),
    "negative sigma": (sigmas(1.0, -0.1), unusable_sigmas("2: 1, -0.1")),
    "table of sigmas": (partial(check_sigmas, torch.ones(2, 3)), unusable_sigmas("6: 1, 1, 1, 1")),
    "sigmas that start late": (sigmas(0.6, 0.0), lambda nothing: nothing is None),
    "emotion -1": (partial(constant_emotion, -1), "emotion: expected an index from 0 to 8, got -1."),
    "emotion 9": (partial(constant_emotion, 9), "emotion: expected an index from 0 to 8, got 9."),
    "emotion of shorter audio": (partial(labels, track(24000)), lambda found: found == [2, 2, 4, 4]),
    "emotion of longer audio": (partial(labels, track(160000)), lambda found: found == [2, 2, 4, 4]),
}


TABLE = {
    f"{kind}: {name}": row
    for kind, rows in {"audio": AUDIO, "sound file": SOUND_FILES, "image": IMAGE, "setting": SETTINGS}.items()
    for name, row in rows.items()
}


@pytest.mark.parametrize("name", TABLE)
def test_input(name):
    expect(*TABLE[name])


def expect(call: Callable, expected: str | Callable) -> None:
    if callable(expected):
        result = call()
        assert expected(result), result
    else:
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == expected


def test_a_playlist_beside_the_files_it_names(tmp_path):
    (tmp_path / "voice.wav").write_bytes(WAV)
    playlist = tmp_path / "list.wav"
    playlist.write_bytes(b"ffconcat version 1.0\nfile voice.wav\n")
    with pytest.raises(InputError, match="list.wav cannot be decoded"):
        audio_io.decode(playlist)


def test_more_sound_than_memory(monkeypatch):
    """A megabyte of FLAC can hold days of silence."""
    monkeypatch.setattr(audio_io, "MOST_VALUES", 1000)
    with pytest.raises(InputError, match="audio is too long: more than 1000 samples in all channels. Cut it into parts."):
        audio_io.decode(WAV)


# What goes through nets, on tiny ones

UNUSUAL_AUDIO = {
    "silence": torch.zeros(1, 16000),
    "a frame": tone(534),
    "a click": torch.nn.functional.pad(torch.ones(1, 1), (0, 15999)),
    "of integer scale": tone(gain=32767),
    "of 32-bit scale": tone(gain=2.0**31),
    "denormal": tone(gain=1e-40),
    "half precision, 8 channels": tone(channels=8).half(),
}


@pytest.mark.parametrize("name", UNUSUAL_AUDIO)
def test_unusual_audio_is_heard(tiny_models, one_thread, name):
    encoder = load_audio_encoder(tiny_models / "audio_encoders" / "wav2vec2-base-960h")
    audio = Audio(UNUSUAL_AUDIO[name], 16000)
    heard = encode_audio(encoder, audio, FPS)
    assert torch.isfinite(heard.hidden_states).all() and heard.frame_count == math.ceil(audio.waveform.shape[1] * 30 / 16000)
    emotion2vec = load_emotion2vec(tiny_models / "memo" / "emotion2vec_plus_large" / "model.pt")
    classifier = load_emotion_classifier(tiny_models / "memo" / "tiny" / "misc" / "audio_emotion_classifier")
    [mood] = detect_emotion(emotion2vec, classifier, audio).probabilities
    assert math.isclose(sum(mood), 1, abs_tol=1e-5)


@pytest.fixture(scope="module")
def sample(tiny_models, one_thread) -> Callable:
    nets = {net: load_net(tiny_models / "memo" / "tiny", net, Layers(dtype=torch.float32)) for net in NETS}
    nets, vae = MemoNets(**nets, device=torch.device("cpu"), dtype=torch.float32), load_autoencoder(tiny_models / "vae" / "sd-vae-ft-mse")

    def sample(audio=None, face=None, width=64, height=64, emotion=None, **settings) -> Tensor:
        audio = audio or AudioFeatures(torch.randn(16, 2, 64, generator=torch.Generator().manual_seed(0)), FPS, 5, 16)
        face, emotion = face or Face(torch.ones(1, 512), None, 1.0), emotion or constant_emotion(3)
        settings = SamplerSettings(**{"steps": 1, **settings})
        image = prepare_portrait(picture(), width, height)
        return torch.cat([clip.frames for clip in sample_video(nets, DiffusersVAE(vae), image, face, audio, emotion, settings)])

    return sample


def video(height: int = 64, width: int = 64) -> Callable:
    return lambda frames: frames.shape == (5, 3, height, width) and bool(torch.isfinite(frames).all())


STATES = torch.randn(16, 2, 64)

SAMPLER: dict[str, tuple[dict, str | Callable]] = {
    "one step": ({"steps": 1}, video()),
    "no steps": ({"steps": 0}, "steps: expected at least 1, got 0."),
    "guidance 0": ({"guidance_scale": 0}, video()),
    "negative guidance": ({"guidance_scale": -3.0}, video()),
    "guidance 100": ({"guidance_scale": 100.0}, video()),
    "sides no multiple of 64": ({"width": 72, "height": 104}, video(104, 72)),
    "no past at the start": ({"num_init_past_frames": 0}, "num_init_past_frames: expected at least 1, got 0."),
    "no past": ({"num_past_frames": 0}, "num_past_frames: expected at least 1, got 0."),
    "another order": ({"reference_order": "random"}, "reference_order: expected one of upstream, aligned, got 'random'."),
    "face of another recogniser": (
        {"face": Face(torch.ones(1, 128), None, 1.0)},
        "face: expected an embedding of shape [1, 512], got [1, 128]. Use MEMO Embed Face.",
    ),
    "no face": ({"face": Face(torch.zeros(1, 512), None, 0.0)}, video()),
    "audio of another encoder": (
        {"audio": AudioFeatures(torch.randn(16, 12, 64), FPS, 5, 16)},
        "audio: the audio encoder gives 3840 numbers per five-frame window, but this model takes 640. "
        "Load the audio encoder that belongs to the model (wav2vec2-base-960h for the published one).",
    ),
    "clips too long": (
        {"audio": AudioFeatures(STATES.repeat(3, 1, 1), FPS, 48, 48)},
        "audio: its clips have 48 frames, but this model makes at most 32 at a time.",
    ),
    "clips of one frame": ({"audio": AudioFeatures(STATES[:5], FPS, 5, 1)}, video()),
    "emotion of other audio": ({"emotion": track(32000)}, video()),
}


@pytest.mark.parametrize("name", SAMPLER)
def test_sampler_setting(sample, name):
    inputs, expected = SAMPLER[name]
    expect(partial(sample, **inputs), expected)
