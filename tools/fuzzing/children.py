"""Runs something that may crash, hang or eat all memory, in a copy of this process, and says what became of it."""

import faulthandler
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from memo_modules.errors import MemoError

FINE = ("accepted", "refused")


@dataclass(frozen=True)
class Outcome:
    """kind: accepted; refused, with an error of the pack's own; else a finding: error, memory, crash or hang. what: in a
    sentence, the same for the same finding."""

    kind: str
    what: str = ""


def outcome_of(call: Callable[[], None], seconds: float = 20, room: int = 2**31) -> Outcome:
    """What becomes of ``call`` in a child process that has ``seconds`` of time and ``room`` bytes of memory more."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run_and_exit(call, writer, room)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said, end = b"", time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome("hang", f"no end after {seconds:g} s")
            if not (part := os.read(pipe.fileno(), 65536)):
                break
            said += part
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Outcome("crash", signal.Signals(os.WTERMSIG(status)).name)
    kind, _, what = said.decode(errors="replace").partition("\n")
    return Outcome(kind, what) if kind else Outcome("crash", f"exit code {os.WEXITSTATUS(status)}")


def _run_and_exit(call: Callable[[], None], writer: int, room: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, size + room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    faulthandler.disable()
    try:
        call()
        said = "accepted"
    except MemoError as error:
        said = f"refused\n{type(error).__name__}"
    except MemoryError:
        said = f"memory\n{_place()}"
    except BaseException as error:
        said = f"error\n{type(error).__name__} at {_place(error)}"
    os.write(writer, said.encode(errors="replace"))
    os._exit(0)


def _place(error: BaseException | None = None) -> str:
    """The last line of the pack's own on the way to the error."""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    own = [frame for frame in frames if "/memo_modules/" in frame.filename]
    place = own[-1] if own else (frames[-1] if frames else None)
    return f"{place.filename.rsplit('/', 1)[-1]}:{place.lineno} {place.name}: {str(error)[:120]!r}" if place else "an unknown place"
