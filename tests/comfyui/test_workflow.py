"""The published workflow in a running ComfyUI: the video it makes, its seed, its progress, and Cancel."""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.helpers.graphs import PORTRAIT, Record, find, frames_of, free, node, saving_frames, talking_portrait, write_wav
from tools.comfyui_server import ServerError


@dataclass
class Video:
    frames: int
    rate: Fraction
    seconds: float
    audio_seconds: float
    size: tuple[int, int]


def read_video(path: Path) -> Video:
    with av.open(str(path)) as container:
        [pictures], [sound] = container.streams.video, container.streams.audio
        audio_seconds = float(sound.duration * sound.time_base)
        frames = [(frame.width, frame.height) for frame in container.decode(pictures)]
        return Video(len(frames), pictures.average_rate, float(pictures.duration * pictures.time_base), audio_seconds, frames[0])


@pytest.fixture
def portrait(comfyui_server) -> dict:
    """Inputs of LoadImage."""
    return {"image": comfyui_server.add_input(PORTRAIT)}


@pytest.fixture
def voice(comfyui_server, tmp_path):
    """Makes a voice; returns the inputs of LoadAudio."""
    return lambda *format: {"audio": comfyui_server.add_input(write_wav(tmp_path / ("voice_" + "_".join(map(str, format)) + ".wav"), *format))}


@pytest.mark.parametrize(
    ("samples", "sample_rate", "channels", "fps", "exact_fps"),
    [
        (8000, 16000, 1, 30.0, Fraction(30)),
        # the last sample of the 16th frame: rounded up to 16 kHz before it is counted, it would start a 17th
        (29429, 44100, 1, 23.976024, Fraction(24000, 1001)),
        (15361, 24000, 2, 25.0, Fraction(25)),
    ],
)
def test_video_is_as_long_as_the_audio(comfyui_server, portrait, voice, samples, sample_rate, channels, fps, exact_fps):
    audio = voice(samples, sample_rate, channels)
    prompt = talking_portrait(LoadImage=portrait, LoadAudio=audio, MemoEncodeAudio={"fps": fps})
    [file] = comfyui_server.run(prompt)[find(prompt, "SaveVideo")]["images"]
    video = read_video(comfyui_server.output_file(file))
    assert video.frames == -(-samples * exact_fps.numerator // (sample_rate * exact_fps.denominator))
    assert video.size == (64, 64)
    assert float(video.rate) == pytest.approx(float(exact_fps), rel=1e-4)
    millisecond = 1e-3  # to which the container rounds
    assert 0 <= video.seconds - samples / sample_rate < 1 / exact_fps
    assert abs(video.audio_seconds - samples / sample_rate) < millisecond


def test_a_seed_means_the_same_frames(comfyui_server, portrait, voice):
    audio = voice(9600, 16000)

    def run(seed):
        record, prompt = Record(), saving_frames(talking_portrait(LoadImage=portrait, LoadAudio=audio, MemoSampler={"seed": seed}))
        frames = frames_of(comfyui_server, comfyui_server.run(prompt, record))
        assert find(prompt, "MemoSampler") in record.executed
        return frames

    first = run(1)
    assert first.shape == (18, 64, 64, 3) and first.std() > 5
    assert free(comfyui_server) == {}  # or the second run would come from the cache
    assert np.array_equal(run(1), first)
    other = run(2)
    assert other.shape == first.shape and not np.array_equal(other[:16], first[:16])


def sent_picture(message: bytes) -> Image.Image:
    """After a header of ComfyUI's: a JPEG of the running clip, or an animated WebP of the one that is done, with that beside it."""
    return Image.open(io.BytesIO(message[message.index(b"RIFF" if b"WEBPVP8" in message else b"\xff\xd8") :]))


def test_every_step_is_reported_and_every_clip_shown(comfyui_server, portrait, voice):
    record = Record()
    prompt = saving_frames(talking_portrait(LoadImage=portrait, LoadAudio=voice(9600, 16000), MemoSampler={"steps": 2, "seed": 3}))
    outputs = comfyui_server.run(prompt, record)
    frames = frames_of(comfyui_server, outputs)
    assert record.progress[find(prompt, "MemoSampler")] == [(done, 4) for done in (1, 2, 3, 4)]
    pictures = [sent_picture(message) for message in record.previews]
    assert [picture.n_frames for picture in pictures if picture.format == "WEBP" and picture.width == 64] == [8, 1], (
        "clips of 16 and 2 frames, played"
    )
    assert all(picture.format == "WEBP" for picture in pictures[[picture.format for picture in pictures].index("WEBP") :])
    shown = [picture.convert("RGB").crop((0, 0, picture.height, picture.height)).resize((64, 64)) for picture in pictures]
    distances = np.array([[np.abs(np.asarray(picture).astype(int) - frames[start]).mean() for start in (0, 16)] for picture in shown])
    apart = np.abs(frames[0].astype(int) - frames[16]).mean()
    assert len(shown) >= 2 and (distances.min(0) < apart / 2).all(), "the first frame of each clip; in between what a slow clip may become"
    assert record.texts == ["Clip 1 of 2", "Clip 2 of 2", "Done: 18 frames, 0:00.6"]
    [entry] = outputs[find(prompt, "MemoSampler")]["images"]
    assert entry["type"] == "temp"
    with Image.open(comfyui_server.output_file(entry)) as sheet:  # the times stand above the middle
        first, second = (np.asarray(sheet)[20:, left : left + 64].astype(int) for left in (0, 64))
        assert np.abs(first - frames[0, 20:]).max() <= 1 and np.abs(second - frames[16, 20:]).max() <= 1, "PNG rounds down"


def test_emotion_by_hand_and_a_picture_without_a_face(comfyui_server, voice):
    prompt = saving_frames(talking_portrait(LoadAudio=voice(8000, 16000), MemoEmbedFace={"allow_no_face": True}))
    prompt[find(prompt, "LoadImage")] = node("HandMadeImage", shape="1 64 96 3", value=0.0)
    prompt[find(prompt, "MemoDetectEmotion")] = node("MemoSetEmotion", emotion="happy")
    assert frames_of(comfyui_server, comfyui_server.run(prompt)).shape == (15, 64, 64, 3)


def test_cancel_stops_the_sampler_and_the_next_prompt_runs(comfyui_server, portrait, voice):
    prompt = saving_frames(talking_portrait(LoadImage=portrait, LoadAudio=voice(8000, 16000), MemoSampler={"steps": 200, "seed": 4}))
    sampler, record = find(prompt, "MemoSampler"), Record()
    cancelled_at: list[int] = []

    def cancel_at_second_step(kind, data):
        record(kind, data)
        if not cancelled_at and len(record.progress.get(sampler, ())) == 2:
            comfyui_server.interrupt()
            cancelled_at.append(record.progress[sampler][-1][0])

    with pytest.raises(ServerError, match="execution interrupted in MemoSampler"):
        comfyui_server.run(prompt, cancel_at_second_step)
    assert record.texts == ["Stopped after clip 0 of 1: Run starts anew"]
    assert len(record.progress[sampler]) <= 2 + 8  # steps that were under way or in the socket meanwhile, far from 200

    prompt[sampler]["inputs"]["steps"] = 1
    assert frames_of(comfyui_server, comfyui_server.run(prompt)).shape == (15, 64, 64, 3)
