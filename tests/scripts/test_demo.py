"""scripts/demo.py: arguments that cannot be meant end in a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_prompt_that_comfyui_refuses_is_told_in_sentences():
    refusal = {"error": {}, "node_errors": {"1": {"class_type": "MemoLoadModel", "errors": [{"message": "no", "details": "'x' is not there"}]}}}
    code = "import sys, json; sys.path.insert(0, sys.argv[1]); import demo; print(demo._sentences(sys.argv[2]), demo._sentences('it {ended'))"
    run = subprocess.run([sys.executable, "-c", code, SCRIPTS, f"http://x: 400 {json.dumps(refusal)}"], capture_output=True, text=True, check=True)
    assert run.stdout == "MemoLoadModel: 'x' is not there it {ended\n"
