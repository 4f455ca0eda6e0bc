"""Damaged files end in content or in a sentence; a short round here, ten minutes of each kind when asked for slow tests."""

import os
import signal
import sys
import time

import pytest
import torch

from memo_modules.errors import CheckpointError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied and limited as Linux does it")


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def refuse():
    raise CheckpointError("no")


@pytest.mark.parametrize(
    "call, kind, what",
    [
        (lambda: None, "accepted", ""),
        (refuse, "refused", "CheckpointError"),
        (lambda: int("x"), "error", "ValueError at test_fuzz.py"),
        (lambda: sys.exit(3), "error", "SystemExit"),
        (lambda: os._exit(3), "crash", "exit code 3"),
        (crash, "crash", "SIGSEGV"),
        (lambda: time.sleep(60), "hang", "no end after 1 s"),
        (lambda: bytearray(2**30), "memory", ""),
        (lambda: torch.ones(2**28), "error", "RuntimeError"),
    ],
)
def test_what_is_found(call, kind, what):
    from tools.fuzzing.children import outcome_of

    outcome = outcome_of(call, seconds=1 if kind == "hang" else 20, room=2**29)
    assert outcome.kind == kind and what in outcome.what


@pytest.mark.parametrize(
    "kind, cases",
    [
        ("checkpoints", 30),
        ("sound", 30),
        ("texts", 30),
        ("onnx", 20),
        pytest.param("checkpoints", None, marks=pytest.mark.slow),
        pytest.param("sound", None, marks=pytest.mark.slow),
        pytest.param("texts", None, marks=pytest.mark.slow),
        pytest.param("onnx", None, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_found(tmp_path, one_thread, kind, cases):
    from tools.fuzz import FINE, KINDS, fuzz

    end = time.monotonic() + float(os.environ.get("MEMO_FUZZ_SECONDS", "600"))
    targets = KINDS[kind](tmp_path / "valid")
    continues = (lambda case: case < cases) if cases else (lambda case: time.monotonic() < end)
    outcomes = fuzz(targets, tmp_path / "cases", seed=0 if cases else time.time_ns(), continues=continues)
    kinds = {outcome.kind for counts in outcomes.values() for outcome in counts}
    assert kinds == set(FINE), outcomes
