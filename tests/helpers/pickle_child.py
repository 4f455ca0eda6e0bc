"""Reads hostile files, one after the other, and says of each what became of it and what it changed in this process.

    python pickle_child.py PACK GOOD FILE...

Prints a line of JSON for each file: outcome (tensors, refused, or the error that came), effects, megabytes, seconds.
"""

import builtins
import collections
import copyreg
import json
import os
import sys
import time
import types
from pathlib import Path

PACK, GOOD, *FILES = sys.argv[1:]
sys.path.insert(0, PACK)

import torch

from memo_modules.errors import CheckpointError
from memo_modules.weights.checkpoints import read_weights

REACHED = (torch._utils, torch.storage, copyreg)
WATCHED = (*REACHED, torch._tensor, torch.serialization, torch.nn.parameter, torch, collections, builtins, os)
HARMLESS_EVENTS = {"open", "mmap.__new__", "object.__getattr__"}

seen: list[str] | None = None


def watch(event: str, args: tuple) -> None:
    if seen is None or event in HARMLESS_EVENTS - {"open"}:
        return
    if event == "open":
        flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    seen.append(f"{event} {args!r:.100}")


def state(modules: tuple) -> dict[str, object]:
    """What hostile files have changed before: attributes and defaults of torch's functions and classes; and modules."""
    found: dict[str, object] = {"modules": frozenset(sys.modules), "environment": dict(os.environ), "folder": os.getcwd()}
    for module in modules:
        for name, value in list(vars(module).items()):
            found[f"{module.__name__}.{name}"] = id(value)
            if isinstance(value, types.FunctionType):
                parts = (value.__code__, value.__defaults__, value.__kwdefaults__)
                found[f"{module.__name__}.{name}()"] = (*map(id, parts), tuple(vars(value)))
            elif isinstance(value, type):
                found[f"{module.__name__}.{name}:"] = tuple((key, id(part)) for key, part in vars(value).items())
    return found


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [f"changed: {name}" for name in after.keys() | before.keys() if after.get(name) != before.get(name)]


def megabytes(kind: str) -> float:
    """Of memory: VmRSS now, or VmHWM at most since ``forget_peak``."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[kind].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def read(file: Path) -> str:
    try:
        tensors = read_weights(file)
        assert all(type(key) is str and type(tensor) is torch.Tensor for key, tensor in tensors.items())
        for tensor in tensors.values():
            tensor.clone()  # its numbers are within the file
        if file.stat().st_size < 100_000:
            read_weights(file, header_only=True)
    except CheckpointError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "tensors"


def main() -> None:
    global seen
    sys.addaudithook(watch)
    read(Path(GOOD))
    expected = torch.load(GOOD, weights_only=True)
    at_first, after = state(WATCHED), state(REACHED)
    for i, file in enumerate(map(Path, FILES), 1):
        before, start = after, time.monotonic()
        if (size := megabytes("VmRSS")) < megabytes("VmHWM") - 10:
            forget_peak()
        seen = effects = []
        outcome = read(file)
        seen = None
        memory = megabytes("VmHWM") - size
        seconds = time.monotonic() - start
        after = state(REACHED)
        effects += differences(before, after) + (differences(at_first, state(WATCHED)) if i == len(FILES) else [])
        print(json.dumps({"outcome": outcome, "effects": effects, "megabytes": memory, "seconds": seconds}))
    assert all(torch.equal(tensor, expected[key]) for key, tensor in torch.load(GOOD, weights_only=True).items())


main()
