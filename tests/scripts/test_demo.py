"""scripts/demo.py: arguments that cannot be meant end in a sentence."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from memo_modules.audio.io import decode

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def demo(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPTS / "demo.py", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--checkpoint", "/"),
        ("--checkpoint", "nowhere"),
        ("--checkpoint", str(SCRIPTS / "demo.py")),
        ("--size", "7"),
        ("--size", "513"),
        ("--size", "100000000"),
        ("--size", "big"),
        ("--steps", "0"),
        ("--steps", "-1"),
        ("--seed", "-1"),
        ("--seed", str(2**64)),
        ("--image", str(SCRIPTS)),
        ("--image", "nowhere.png"),
        ("--audio", str(SCRIPTS)),
        ("--output", str(SCRIPTS)),
    ],
)
def test_an_argument_that_cannot_be_meant_is_named(arguments):
    run = demo(*arguments)
    assert run.returncode == 2 and f"demo.py: error: argument {arguments[0]}: " in run.stderr.splitlines()[-1], run.stderr


@pytest.mark.parametrize(
    ("channels", "rate", "made"),
    [(1, 16000, (1, 16000)), (2, 48000, (2, 48000)), (1, 192000, (1, 48000)), (3, 11000, (1, 11025)), (8, 48000, (1, 48000))],
)
def test_a_voice_becomes_one_that_save_video_can_write(tmp_path, channels, rate, made):
    samples = (np.sin(np.arange(rate) / rate * 2000)[:, None] * ([0] * (channels - 1) + [9999])).astype("<i2")
    with wave.open(str(tmp_path / "given.wav"), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    code = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import demo; print(demo.fit_for_video(*map(Path, sys.argv[2:])))"
    command = [sys.executable, "-c", code, SCRIPTS, tmp_path / "given.wav", tmp_path]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    voice = decode(Path(said[-1]))
    assert (len(voice.waveform), voice.sample_rate) == made and len(said) == (1 if made == (channels, rate) else 2)
    assert voice.waveform.abs().max() == pytest.approx(9999 / 32768, abs=0.01)


def test_a_prompt_that_comfyui_refuses_is_told_in_sentences():
    refusal = {"error": {}, "node_errors": {"1": {"class_type": "MemoLoadModel", "errors": [{"message": "no", "details": "'x' is not there"}]}}}
    code = "import sys, json; sys.path.insert(0, sys.argv[1]); import demo; print(demo._sentences(sys.argv[2]), demo._sentences('it {ended'))"
    run = subprocess.run([sys.executable, "-c", code, SCRIPTS, f"http://x: 400 {json.dumps(refusal)}"], capture_output=True, text=True, check=True)
    assert run.stdout == "MemoLoadModel: 'x' is not there it {ended\n"
