"""Run by test_onnx_sessions.py in a process of its own: uses the packages that open ONNX files, and reports what they left.

Arguments: a tiny checkpoint's misc folder, the file for the report, and what to do: vocals, face, or one after the other.
The report is JSON: {"changed": {what: [before, after]}, "reached": what the packages wanted of the network and of programs}.
"""

import json
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project

from memo_modules.audio.vocals import VocalSeparator
from memo_modules.portrait.face import FaceAnalyzer, embed_face
from memo_modules.types import Audio

misc, report, *steps = sys.argv[1:]
GUARDED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen", "os.system", "os.posix_spawn"}
reached: list[str] = []


def guard(event: str, arguments: tuple) -> None:
    if event in GUARDED and "uname" not in arguments:  # the standard library's `platform` runs that
        reached.append(f"{event} {arguments}")
        raise OSError(f"{event} is not for these packages")


def state() -> dict:
    """All that a package might change for everyone else."""
    loggers = {None: logging.root, **{name: logger for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)}}
    return {
        "warnings": [*warnings.filters, warnings.showwarning],
        "logging": [logging.root.manager.disable, logging.getLoggerClass(), logging.lastResort],
        "loggers": {name: [log.level, log.disabled, log.propagate, *log.handlers] for name, log in loggers.items()},
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": [sys.excepthook, sys.displayhook, threading.excepthook, sys.stdout, sys.stderr],
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "locale": locale.setlocale(locale.LC_ALL),
        "numpy": [np.geterr(), np.get_printoptions(), np.random.get_state()[1].tolist()],
        "random": random.getstate(),
        "torch": [torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.initial_seed()],
        "threads": [thread.name for thread in threading.enumerate()],
    }


def vocals() -> None:
    separator = VocalSeparator.load(Path(misc, "vocal_separator", "Kim_Vocal_2.onnx"))
    for _ in range(2):
        assert separator.separate(Audio(torch.rand(2, 50000, generator=generator) - 0.5, 44100)).waveform.any()
        separator.release()


def face() -> None:
    analyzer = FaceAnalyzer.load(Path(misc, "face_analysis", "models"))
    for _ in range(2):
        assert embed_face(analyzer, torch.rand(256, 256, 3, generator=generator)).embedding.any()
        analyzer.release()


generator = torch.Generator().manual_seed(0)
sys.addaudithook(guard)
before = state()
for step in steps:
    {"vocals": vocals, "face": face}[step]()
after = state()

# Loggers that are new may be as they like, unless they write somewhere.
known = before["loggers"].keys()
after["loggers"] = {
    name: found for name, found in after["loggers"].items() if name in known or any(not isinstance(h, logging.NullHandler) for h in found[3:])
}
changed = {name: [repr(before[name]), repr(after[name])] for name in before if before[name] != after[name]}
Path(report).write_text(json.dumps({"changed": changed, "reached": reached}), encoding="utf-8")
