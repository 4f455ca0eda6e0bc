"""The workflows that chain core's nodes before and after the talking portrait, run on the tiny checkpoint: what their notes promise."""

import json
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.helpers.graphs import LOADED, SMALL, WORKFLOWS, given, write_portraits, write_wav
from tools.comfyui_server import ServerError
from tools.tiny_picture_models import write_tiny_interpolator

API = WORKFLOWS[0].parent / "api"
PORTRAIT = API.parents[1] / "assets" / "portrait.jpg"
SAMPLES, SAMPLE_RATE, FPS = 6001, 22050, 30
FRAMES = ceil(Fraction(SAMPLES * FPS, SAMPLE_RATE))
SMALLEST = {"MemoLoadAll": LOADED, "MemoTalkingPortrait": {"resolution": 64, "steps": 1}}
INTERPOLATOR = "FrameInterpolationModelLoader"


@pytest.fixture(scope="module")
def sound(comfyui_server, tmp_path_factory) -> str:
    comfyui_server.add_input(PORTRAIT)
    return comfyui_server.add_input(write_wav(tmp_path_factory.mktemp("sound") / "chained.wav", SAMPLES, SAMPLE_RATE))


def videos_of(server, workflow: str, sound: str, **inputs: dict) -> list[Path]:
    """The videos that a workflow writes at 64 x 64, ``inputs`` given to nodes by their class."""
    prompt = json.loads((API / f"{workflow}.json").read_text(encoding="utf-8"))
    if missing := {part["class_type"] for part in prompt.values()} - server.get("/object_info").keys():
        pytest.skip(f"this ComfyUI has no {sorted(missing)}")
    for part in prompt.values():
        for values in (SMALLEST | given(PORTRAIT.name, sound), inputs):
            part["inputs"] |= values.get(part["class_type"], {})
    entries = [entry for output in server.run(prompt).values() for entry in output.get("images", ())]
    return [server.output_file(entry) for entry in entries if entry["filename"].endswith(".mp4")]


def measured(video: Path) -> tuple[int, Fraction, float]:
    """Its frames, frames per second, and seconds of sound."""
    with av.open(str(video)) as file:
        [picture], [heard] = file.streams.video, file.streams.audio
        return sum(1 for _ in file.decode(picture)), picture.average_rate, float(heard.duration * heard.time_base)


def test_a_microphone_gives_the_voice(comfyui_server, sound):
    [video] = videos_of(comfyui_server, "record_yourself", sound)
    assert measured(video) == (FRAMES, FPS, pytest.approx(SAMPLES / SAMPLE_RATE, abs=0.03))


@pytest.mark.parametrize(("start", "duration", "seconds"), [(0.05, 0.2, 0.2), (-0.1, 3.0, 0.1)])
def test_the_video_of_a_part_is_as_long_as_the_part(start, duration, seconds, comfyui_server, sound):
    [video] = videos_of(comfyui_server, "part_of_a_recording", sound, TrimAudioDuration={"start_index": start, "duration": duration})
    assert measured(video) == (round(seconds * FPS), FPS, pytest.approx(seconds, abs=0.03))


@pytest.mark.parametrize(("fps", "factor"), [(30, 2), (25, 4)])
def test_frames_are_multiplied_and_lips_and_voice_stay_together(fps, factor, comfyui_server, sound):
    write_tiny_interpolator(comfyui_server.base / "models" / "frame_interpolation" / "tiny.safetensors")
    changed = {
        INTERPOLATOR: SMALL[INTERPOLATOR],
        "MemoTalkingPortrait": {"fps": fps},
        "FrameInterpolate": {"multiplier": factor},
        "ComfyMathExpression": {"expression": f"a * {factor}"},
    }
    [video] = videos_of(comfyui_server, "smooth_60_fps", sound, **changed)
    frames = ceil(Fraction(SAMPLES * fps, SAMPLE_RATE))
    assert measured(video) == (factor * (frames - 1) + 1, factor * fps, pytest.approx(SAMPLES / SAMPLE_RATE, abs=0.03))


def test_videos_of_a_folder_carry_the_names_of_its_portraits_even_when_one_is_left_out(comfyui_server, sound, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "too_small.png")
    portraits = {"anna": PORTRAIT, "ben": PORTRAIT, "nobody": tmp_path / "too_small.png"}
    write_portraits(comfyui_server.base / "input", portraits)
    (comfyui_server.base / "input" / "portraits" / "ben.txt").unlink()
    videos = videos_of(comfyui_server, "folder_of_portraits", sound)
    assert sorted(video.name for video in videos) == ["MEMO__00001_.mp4", "MEMO_anna_00001_.mp4"]
    assert {measured(video)[0] for video in videos} == {FRAMES}


def test_text_to_portrait_is_taken_and_gets_as_far_as_its_checkpoint(comfyui_server, sound):
    checkpoints = comfyui_server.base / "models" / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    (checkpoints / "v1-5-pruned-emaonly-fp16.safetensors").touch()  # no test has 2 GB
    with pytest.raises(ServerError, match="execution error in CheckpointLoaderSimple"):
        videos_of(comfyui_server, "text_to_portrait", sound)
