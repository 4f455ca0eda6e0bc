"""scripts/demo.py from the command line to a face that talks, in ComfyUI and without one."""

import os
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from tools import environment
from tools.small_world import measure_mouth
from tools.small_world.mouth import mouth_from_sound

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_RATE, SAMPLES = 16000, 20001
FRAMES = 38  # 30 per second, the last one partly covered
VOICE = ROOT / "assets" / "cartoon.wav"

pytestmark = pytest.mark.skipif(
    Path(sys.prefix).resolve() != environment.VENV.resolve(), reason="from another Python the demo would make .venv first: run tools/test.py"
)


@pytest.fixture
def voice(tmp_path):
    """The beginning of the demo's own voice."""
    with wave.open(str(VOICE)) as whole, wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setparams(whole.getparams())
        file.writeframes(whole.readframes(SAMPLES))
    return tmp_path / "voice.wav"


def run_demo(voice, tmp_path, **variables):
    output = tmp_path / "out put" / "vidéo.mp4"
    command = [sys.executable, ROOT / "scripts" / "demo.py", "--audio", voice, "--output", output, "--steps", "4"]
    inherited = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    run = subprocess.run(command, env=inherited | variables, check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == str(output)
    return run.stdout, output


def check_video(path, voice):
    with av.open(str(path)) as container:
        [video], [audio] = container.streams.video, container.streams.audio
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video)])
        assert video.average_rate == 30
        assert abs(float(audio.duration * audio.time_base) - SAMPLES / SAMPLE_RATE) < 1 / 30
    assert frames.shape == (FRAMES, 128, 128, 3)
    with wave.open(str(voice)) as file:
        waveform = np.frombuffer(file.readframes(SAMPLES), "<i2") / 32768
    expected, _ = mouth_from_sound(waveform, FRAMES, 30)
    seen, _ = measure_mouth(frames)
    assert np.corrcoef(seen, expected)[0, 1] > 0.7, "the mouth opens with the voice"


def test_demo_in_comfyui(comfyui_path, voice, tmp_path):
    text, video = run_demo(voice, tmp_path, COMFYUI_PATH=str(comfyui_path))
    assert "Starting ComfyUI" in text
    check_video(video, voice)


@pytest.mark.slow
def test_demo_without_comfyui(voice, tmp_path):
    text, video = run_demo(voice, tmp_path, HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert "through the library" in text
    check_video(video, voice)
