"""scripts/demo.py from the command line to the finished file, in ComfyUI and without one."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import av
import pytest

from comfyui_memo.scripts import environment

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_RATE, SAMPLES = 16000, 9001
FRAMES = 17  # 30 per second, the last one partly covered; one more than a clip

pytestmark = pytest.mark.skipif(
    Path(sys.prefix).resolve() != environment.VENV.resolve(), reason="from another Python the demo would make .venv first: run scripts/test.py"
)


@pytest.fixture
def voice(tmp_path):
    with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(bytes(i * i // 7 % 256 if i % 2 == 0 else 8 for i in range(2 * SAMPLES)))
    return tmp_path / "voice.wav"


def run_demo(voice, tmp_path, **variables):
    output = tmp_path / "out put" / "vidéo.mp4"
    command = [sys.executable, ROOT / "scripts" / "demo.py", "--audio", voice, "--output", output, "--steps", "1"]
    inherited = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    run = subprocess.run(command, env=inherited | variables, check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == str(output)
    return run.stdout, output


def check_video(path):
    with av.open(str(path)) as container:
        [video], [audio] = container.streams.video, container.streams.audio
        frames = sum(1 for _ in container.decode(video))
        assert frames == FRAMES
        assert video.average_rate == 30
        assert abs(float(audio.duration * audio.time_base) - SAMPLES / SAMPLE_RATE) < 1 / 30


def test_demo_in_comfyui(comfyui_path, voice, tmp_path):
    text, video = run_demo(voice, tmp_path, COMFYUI_PATH=str(comfyui_path))
    assert "Starting ComfyUI" in text
    check_video(video)


def test_demo_without_comfyui(voice, tmp_path):
    text, video = run_demo(voice, tmp_path, HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert "through the library" in text
    check_video(video)
