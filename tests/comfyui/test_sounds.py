"""Sounds that no encoder takes: whatever a graph ends in, they are made fit, or refused before the first step in words that can be followed."""

import wave
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.helpers.graphs import LOADED, PORTRAIT, Record, find, node, talking_portrait, to_file
from tests.helpers.tracks import COVER, DEFAULT, Pictures, Sound, write_tracks
from tools.comfyui_server import ServerError

SOUNDS = [(1, 192000), (2, 11000), (8, 48000), (12, 384000)]
SOUNDS += [pytest.param(*sound, marks=pytest.mark.slow) for sound in ((1, 96001), (3, 48000), (7, 44100))]
each_sound = pytest.mark.parametrize(("channels", "rate"), SOUNDS)


def sound(channels: int, rate: int, value: str = "noise") -> dict:
    """Half a second of it."""
    return node("HandMadeAudio", shape=f"1 {channels} {rate // 2}", sample_rate=rate, value=value)


@pytest.fixture
def chain(comfyui_server) -> dict:
    """The published workflow, which ends in Create Video."""
    return talking_portrait(LoadImage={"image": comfyui_server.add_input(PORTRAIT)})


@pytest.fixture
def all_in_one(comfyui_server) -> dict:
    settings = {"resolution": 64, "fps": 30.0, "steps": 1, "guidance_scale": 3.5, "seed": 42}
    return {
        "image": node("LoadImage", image=comfyui_server.add_input(PORTRAIT)),
        "models": node("MemoLoadAll", **LOADED),
        "portrait": node("MemoTalkingPortrait", models=["models", 0], image=["image", 0], audio=["audio", 0], **settings),
        "video": node("SaveVideo", video=["portrait", 2], filename_prefix="video/sounds", format="auto", codec="auto"),
    }


def heard(server, outputs: dict, name: str) -> tuple[str, int, int, float]:
    """Codec, channels, rate and seconds of the sound in the file of a node."""
    [entry] = outputs[name]["images"]
    with av.open(str(server.output_file(entry))) as video:
        stream = video.streams.audio[0]
        seconds = sum(frame.samples for frame in video.decode(stream)) / stream.rate
        return stream.codec.canonical_name, stream.codec_context.layout.nb_channels, stream.rate, seconds


def unfinished(server) -> list[Path]:
    return sorted((server.base / "output" / "memo_unfinished").glob("*"))


@each_sound
def test_talking_portrait_makes_it_fit(comfyui_server, all_in_one, channels, rate):
    outputs = comfyui_server.run(all_in_one | {"audio": sound(channels, rate)})
    codec, _, at, seconds = heard(comfyui_server, outputs, "video")
    assert codec == "aac" and at <= 96000 and seconds == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("channels", "rate"), [(1, 192000), (3, 48000), (8, 11000)])
def test_create_video_is_refused_before_the_first_step(comfyui_server, chain, channels, rate):
    record = Record()
    chain[find(chain, "LoadAudio")] = sound(channels, rate)
    with pytest.raises(ServerError) as error:
        comfyui_server.run(chain, record)
    said = "channel" if channels == 1 else "channels"
    assert f": audio: it also goes into Create Video, whose files cannot hold {channels} {said} at {rate} samples per second." in str(error.value)
    assert find(chain, "MemoSampler") not in record.progress and find(chain, "MemoSampler") not in record.executed


def test_sound_as_that_advises_it_is_saved(comfyui_server, chain):
    chain[find(chain, "LoadAudio")] = sound(2, 48000)
    assert heard(comfyui_server, comfyui_server.run(chain), find(chain, "SaveVideo"))[:3] == ("aac", 2, 48000)


@each_sound
def test_sample_to_file_makes_it_fit(comfyui_server, chain, channels, rate):
    prompt, record = to_file(chain, filename_prefix="video/sounds", codec="h264"), Record()
    prompt[find(prompt, "LoadAudio")] = sound(channels, rate)
    outputs = comfyui_server.run(prompt, record)
    codec, wide, at, seconds = heard(comfyui_server, outputs, find(prompt, "MemoSampleToFile"))
    assert codec == "aac" and wide == (channels if channels <= 7 else 1) and at <= 96000 and seconds == pytest.approx(0.5, abs=0.15)
    changed = channels > 7 or at != rate
    assert any("aac stores it with" in text for text in record.texts) == changed


@pytest.mark.parametrize(("audio_codec", "channels", "rate"), [("auto", 1, 192000), ("aac", 8, 96001), ("flac", 8, 96001), ("pcm", 8, 96001)])
def test_paste_back_to_file_makes_it_fit(comfyui_server, audio_codec, channels, rate):
    frames = {"faces": node("MemoLoadFaceAnalysis", face_analysis="tiny"), "photo": node("HandMadeImage", shape="1 96 96 3", value=0.5)}
    crop = node("MemoCropPortrait", face_analysis=["faces", 0], image=["photo", 0], index=0, margin=0.4, size=64)
    pasted = {"photo": ["photo", 0], "images": ["frames", 0], "crop": ["crop", 1], "feather": 0.1, "color_match": "off", "sound": ["sound", 0]}
    chosen = {"fps": 30.0, "filename_prefix": "video/sounds", "codec": "h264", "crf": 30, "pixel_format": "auto", "audio_codec": audio_codec}
    prompt = frames | {
        "crop": crop,
        "frames": node("HandMadeImage", shape="15 64 64 3", value=0.5),
        "sound": sound(channels, rate),
        "paste": node("MemoPasteBackToFile", **pasted, **chosen),
    }
    codec, wide, _, seconds = heard(comfyui_server, comfyui_server.run(prompt), "paste")
    assert codec == {"auto": "aac", "pcm": "pcm_f32le"}.get(audio_codec, audio_codec) and wide == 1 and seconds == pytest.approx(0.5, abs=0.1)


def test_a_refused_run_leaves_nothing_behind(comfyui_server, chain):
    before = unfinished(comfyui_server)
    for refused in ({"sound": ["bad", 0]}, {"output_fps": 0.5}, {"lead_in": 11.0}, {"state": ["bad", 0]}):
        prompt = to_file(chain, filename_prefix="video/refused", **refused)
        prompt["bad"] = node("HandMadeAudio", shape="1 1 8000", sample_rate=16000, value="nan")
        prompt[find(prompt, "LoadAudio")] = sound(1, 16000)
        with pytest.raises(ServerError):
            comfyui_server.run(prompt)
    assert unfinished(comfyui_server) == before


@pytest.mark.parametrize("shape", ["8000", "2 8000"])
def test_waveforms_of_other_packs_are_taken(comfyui_server, chain, all_in_one, shape):
    given = node("HandMadeAudio", shape=shape, sample_rate=16000, value="noise")
    prompt = to_file(chain, filename_prefix="video/sounds")
    prompt[find(prompt, "LoadAudio")] = given
    assert heard(comfyui_server, comfyui_server.run(prompt), find(prompt, "MemoSampleToFile"))[3] == pytest.approx(0.5, abs=0.1)
    assert heard(comfyui_server, comfyui_server.run(all_in_one | {"audio": given}), "video")[3] == pytest.approx(0.5, abs=0.15)


def test_channels_that_cancel_each_other_are_said_where_they_come_in(comfyui_server, chain, all_in_one):
    inverted = node("HandMadeAudio", shape="1 2 8000", sample_rate=16000, value="inverted")
    for prompt, kind in ((chain, "MemoSeparateVocals"), (all_in_one, "MemoTalkingPortrait")):
        record = Record()
        comfyui_server.run(prompt | {find(prompt, "LoadAudio") if prompt is chain else "audio": inverted}, record)
        assert any("its channels cancel each other" in text and "channel 1 alone" in text for text in record.texts), kind


def test_a_sound_in_which_nothing_is_heard_is_said_where_it_comes_in(comfyui_server, chain, all_in_one):
    constant = node("HandMadeAudio", shape="1 2 8000", sample_rate=16000, value="0.3")
    for prompt, kind in ((chain, "MemoSeparateVocals"), (all_in_one, "MemoTalkingPortrait")):
        record = Record()
        comfyui_server.run(prompt | {find(prompt, "LoadAudio") if prompt is chain else "audio": constant}, record)
        assert any("audio: nothing is heard in it. Of a file with several tracks" in text for text in record.texts), kind


VOICE = (np.random.default_rng(0).normal(size=8000) * 0.1).astype(np.float32)
"""Half a second at 16 kHz."""

PICTURES = Pictures(np.full((15, 64, 64, 3), 90, np.uint8))
SILENT = "audio: nothing is heard in it"
CANCELLED = "audio: its channels cancel each other, as if one was inverted: channel"


def shifted(degrees: float) -> np.ndarray:
    """The voice with the phase of every frequency shifted by so much."""
    return np.fft.irfft(np.fft.rfft(VOICE) * np.exp(1j * np.deg2rad(degrees)), len(VOICE)).astype(np.float32)


def wav(*channels: np.ndarray, rate: int = 16000) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with wave.open(str(path), "wb") as file:
            file.setparams((len(channels), 2, rate, 0, "NONE", ""))
            file.writeframes((np.stack(channels, axis=1).clip(-1, 1) * 32767).astype("<i2").tobytes())

    return write


def tracks(*each: Pictures | Sound, **options) -> Callable[[Path], None]:
    return lambda path: write_tracks(path, *each, **options) and None


def voice(codec: str = "pcm_s16le", samples: np.ndarray = VOICE, **options) -> Sound:
    return Sound(samples[None], codec, **options)


def cut(path: Path) -> None:
    write_tracks(path, voice("libmp3lame"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def as_streamed(path: Path) -> None:
    """A WAV whose header does not know how long it is."""
    wav(VOICE)(path)
    written = path.read_bytes()
    path.write_bytes(written[:4] + b"\xff" * 4 + written[8:40] + b"\xff" * 4 + written[44:])


LASTS = 0.5
FILES: dict[str, tuple[Callable[[Path], None], float | str, str]] = {
    "rate 7350.wav": (wav(VOICE[:3675], rate=7350), LASTS, ""),
    "rate 37811.wav": (wav(np.resize(VOICE, 18905), rate=37811), LASTS, ""),
    "rate 384000.wav": (wav(np.resize(VOICE, 192000), rate=384000), LASTS, ""),
    "16 channels.wav": (wav(*[0 * VOICE] * 15, VOICE), LASTS, ""),
    "90 degrees apart.wav": (wav(VOICE, shifted(90)), LASTS, ""),
    "170 degrees apart.wav": (wav(VOICE, shifted(170)), LASTS, CANCELLED),
    "inverted, of four.wav": (wav(0 * VOICE, VOICE, -VOICE, 0 * VOICE), LASTS, CANCELLED),
    "constant below a voice.wav": (wav(0.5 + VOICE), LASTS, ""),
    "a constant.wav": (wav(0.3 + 0 * VOICE), LASTS, SILENT),
    "clipped.wav": (wav(50 * VOICE), LASTS, ""),
    "24 bits.wav": (tracks(voice("pcm_s24le")), LASTS, ""),
    "float.wav": (tracks(voice("pcm_f32le")), LASTS, ""),
    "float of 64 bits.wav": (tracks(voice("pcm_f64le")), LASTS, ""),
    "telephone.wav": (tracks(voice("pcm_alaw")), LASTS, ""),
    "streamed.wav": (as_streamed, LASTS, ""),
    "cut off.mp3": (cut, 0.3, ""),
    "cover.m4a": (tracks(voice("aac"), Pictures(PICTURES.frames[:1], "mjpeg", "yuvj420p", disposition=COVER), format="mp4"), LASTS, ""),
    "video.mov": (tracks(PICTURES, voice()), LASTS, ""),
    "video.ts": (tracks(PICTURES, voice("mp2")), LASTS, ""),
    "default is the second.mkv": (tracks(PICTURES, voice(disposition=0), voice(samples=0.5 * VOICE, disposition=DEFAULT)), LASTS, ""),
    "the first is silent.mkv": (tracks(PICTURES, voice(samples=0 * VOICE), voice(disposition=DEFAULT)), LASTS, SILENT),
    "one frame.wav": (wav(VOICE[:534]), 1 / 30, ""),
    "shorter.wav": (wav(VOICE[:533]), "audio is shorter than one frame: 533 samples at 16000 Hz", ""),
    "not a number.wav": (tracks(voice("pcm_f32le", np.where(np.arange(8000) == 99, np.nan, VOICE))), "audio: 1 of 8000 samples are NaN", ""),
    "no sound.mp4": (tracks(PICTURES), "in LoadAudio: No audio stream found", ""),
    "no samples.wav": (wav(VOICE[:0]), "error in LoadAudio", ""),
    "empty.wav": (Path.touch, "error in LoadAudio", ""),
}
"""Names of files to how they are written, the seconds of the video or why there is none, and what is said."""


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_kind_is_heard_or_refused_before_the_first_step(comfyui_server, chain, tmp_path, name):
    write, expected, note = FILES[name]
    write(tmp_path / name)
    prompt, record = to_file(chain, filename_prefix="video/kinds", codec="h264"), Record()
    prompt[find(prompt, "LoadAudio")] = node("LoadAudio", audio=comfyui_server.add_input(tmp_path / name))
    prompt[find(prompt, "MemoSampleToFile")]["inputs"]["guidance_scale"] = 1.0
    if isinstance(expected, str):
        with pytest.raises(ServerError, match=expected):
            comfyui_server.run(prompt, record)
        assert find(prompt, "MemoSampleToFile") not in record.progress
        return
    outputs = comfyui_server.run(prompt, record)
    codec, _, _, seconds = heard(comfyui_server, outputs, find(prompt, "MemoSampleToFile"))
    assert codec == "aac" and seconds == pytest.approx(expected, abs=0.1)
    said = [text for text in record.texts if text.startswith("audio:")]
    assert bool(said) == bool(note) and all(text.startswith(note) for text in said)
