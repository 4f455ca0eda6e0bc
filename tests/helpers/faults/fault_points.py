"""Runs a writer again and again, each time with another of its system calls failing, cut short or never coming back.

In the manner in which SQLite is tested. A Writer says what it writes; `run` lets it work once undisturbed, and then in a process
of its own for each of its calls and each thing that can happen there. After each: no file under its final name that is not
whole, none of others gone or changed, no error but the pack's own, nothing left over but after a kill; and the same work
once more gives what the undisturbed one gave. The calls are those of the C library (faults.c), so that what PyAV and
safetensors write counts too.

    python fault_points.py LIBRARY '{WRITER: STRIDE}'        as `points` starts it, with faults.c compiled and preloaded
"""

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
KILLED, REFUSED, FAILED = 77, 1, 2
COUNT, FAIL, SHORT, KILL_BEFORE, KILL_HALFWAY, KILL_AFTER = range(6)
PATIENCE = 60
"""Seconds after which a disturbed run counts as hanging."""


@dataclass(frozen=True)
class Writer:
    """work: does it, in a folder that ``prepare`` has filled; its second folder lies on another disk where there is one. Both
    are asked for everything by the same names each time.

    apart: folders of it whose content may be anything in between, as the journals that the work continues from. again:
    what the second run may add to, as the names that it finds taken. refuses: words of the error with which the work may
    refuse to be done over what is already there. hollow: a kill may leave an empty file under a final name.
    between: whether a file may have that content on its way to what it has after.
    """

    work: Callable[[Path, Path], None]
    prepare: Callable[[Path, Path], None] = lambda folder, other: None
    apart: tuple[str, ...] = ()
    again: Callable[[str], bool] = lambda name: False
    refuses: str | None = None
    hollow: bool = False
    between: Callable[[str, bytes, bytes], bool] = lambda name, content, after: False


@dataclass
class Report:
    """calls: by kind. runs: with a fault. problems: what was not as it should be, in words."""

    calls: Counter = field(default_factory=Counter)
    runs: int = 0
    problems: list[str] = field(default_factory=list)


def points(strides: dict[str, int], folder: Path) -> dict[str, Report]:
    """`run`, by the names of writers in fault_writers.py, for every so many-th of their disturbances, in a process that has
    faults.c below it; ``folder``: for what is compiled."""
    library = folder / "faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    settings = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, library, json.dumps(strides)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, cwd=HERE)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {writer: Report(Counter(each["calls"]), each["runs"], each["problems"]) for writer, each in found.items()}


class Faults:
    """faults.c, where it is preloaded."""

    def __init__(self, library: str):
        self.library = ctypes.CDLL(library)
        self.library.faults_name.restype = ctypes.c_char_p

    def arm(self, folders: tuple[Path, Path], number: int, mode: int, error: int) -> None:
        self.library.faults_arm(*(str(folder).encode() for folder in folders), ctypes.c_long(number), mode, error)

    def disarm(self) -> list[str]:
        """The kinds of the calls since."""
        count = self.library.faults_disarm()
        return [self.library.faults_name(ctypes.c_long(number)).decode() for number in range(count)]


def disturbances(kind: str) -> Iterator[tuple[int, int]]:
    """What can happen to a call: (mode, error)."""
    for error in (errno.ENOSPC, errno.EIO, *((errno.EACCES,) if kind not in ("write", "fsync", "truncate") else ())):
        yield FAIL, error
    if kind == "link":
        yield FAIL, errno.EPERM  # as a disk says that has none
    if kind == "write":
        yield SHORT, 0
        yield KILL_HALFWAY, 0
    yield KILL_BEFORE, 0
    yield KILL_AFTER, 0


def run(writer: Writer, faults: Faults, stride: int) -> Report:
    """Every ``stride``-th of all disturbances of ``writer``."""
    report, disks = Report(), [Path(disk) for disk in ("/dev/shm", tempfile.gettempdir()) if os.access(disk, os.W_OK)]
    with tempfile.TemporaryDirectory(dir=disks[0]) as first, tempfile.TemporaryDirectory(dir=disks[-1]) as second:
        template, folders = (Path(first, "template"), Path(second, "template")), (Path(first, "at work"), Path(second, "at work"))
        for folder in template:
            folder.mkdir()
        writer.prepare(*template)
        _renew(folders, template)
        before = _contents(folders, writer)
        faults.arm(folders, -1, COUNT, 0)
        writer.work(*folders)
        kinds = faults.disarm()
        after, leftover = _contents(folders, writer), _leftover(folders, writer)
        assert not leftover, f"the undisturbed run leaves {leftover}"
        report.calls = Counter(kinds)
        everything = [(number, kind, *what) for number, kind in enumerate(kinds) for what in disturbances(kind)]
        for number, kind, mode, error in everything[stride // 2 :: stride]:
            report.runs += 1
            _renew(folders, template)
            problem = _disturbed(writer, faults, folders, before, after, (number, kind, mode, error))
            if problem:
                how = errno.errorcode.get(error) or ["", "", "short", "killed before", "killed halfway", "killed after"][mode]
                report.problems.append(f"call {number} ({kind}, {how}): {problem}")
    return report


def _disturbed(writer, faults, folders, before, after, fault) -> str | None:
    number, kind, mode, error = fault
    status, said = _in_child(lambda: _work(writer, faults, folders, number, mode, error))
    if status not in (0, REFUSED, KILLED):
        return said
    if status == KILLED and mode < KILL_BEFORE:
        return "it was killed"
    there = _contents(folders, writer)
    hollow = {name for name, content in there.items() if writer.hollow and status == KILLED and not content}
    fine = {name for name, content in there.items() if name in after and writer.between(name, content, after[name])}
    if problem := _not_whole({name: content for name, content in there.items() if name not in hollow | fine}, before, after):
        return problem
    leftover = _leftover(folders, writer)
    if leftover and status != KILLED and kind != "unlink":
        return f"it leaves {leftover}"
    status, said = _in_child(lambda: _work(writer, faults, folders, -1, COUNT, 0))
    found = {name: content for name, content in _contents(folders, writer).items() if name in after or hollow or not writer.again(name)}
    if status == REFUSED and writer.refuses and writer.refuses in said:
        return None
    if status != 0:
        return f"once more: {said}"
    if sorted(filter(None, found.values())) != sorted(after.values()) if hollow else found != after:
        return f"once more it gives {sorted(found)}, not {sorted(after)}, or with other content"
    return None


def _work(writer: Writer, faults: Faults, folders: tuple[Path, Path], number: int, mode: int, error: int) -> None:
    from memo_modules.errors import MemoError

    faults.arm(folders, number, mode, error)
    try:
        writer.work(*folders)
    except MemoError as refusal:
        faults.disarm()
        print(refusal, file=sys.stderr, flush=True)
        os._exit(REFUSED)
    faults.disarm()


def _in_child(function: Callable[[], None]) -> tuple[int, str]:
    """How a process of its own ends that calls ``function``, and what it says."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            try:
                function()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(FAILED)
        until = time.monotonic() + PATIENCE
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.kill(child, 9)
                os.waitpid(child, 0)
                return FAILED, "it hangs"
            time.sleep(0.002)
        said.seek(0)
        return os.waitstatus_to_exitcode(ended[1]), said.read()[-1500:]


def _renew(folders: tuple[Path, Path], template: tuple[Path, Path]) -> None:
    for folder, filled in zip(folders, template, strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(filled, folder)


def _is_partial(name: str) -> bool:
    parts = Path(name).parts
    return any(part.endswith((".part", ".partial", ".former")) or part.startswith(".tmp") for part in parts)


def _files(folders: tuple[Path, Path], writer: Writer) -> Iterator[tuple[str, Path]]:
    for number, folder in enumerate(folders):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not path.name.endswith("lock") and not name.startswith(writer.apart or "\0"):
                yield f"{'second/' * number}{name}", path


def _contents(folders: tuple[Path, Path], writer: Writer) -> dict[str, bytes]:
    """By name, the files that have their final names; what others are writing is theirs, and counts as such."""
    return {name: _content(path) for name, path in _files(folders, writer) if "others" in name or not _is_partial(name)}


def _content(path: Path) -> bytes:
    """What is in a file; of a whole safetensors file with its header in order, which the library writes in any."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    if path.suffix != ".safetensors" or len(content) < end:
        return content
    return json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]


def _leftover(folders: tuple[Path, Path], writer: Writer) -> list[str]:
    return [name for name, _ in _files(folders, writer) if _is_partial(name) and "others" not in name]


def _not_whole(now: dict[str, bytes], before: dict[str, bytes], after: dict[str, bytes]) -> str | None:
    for name, content in now.items():
        if content not in (before.get(name), after.get(name)):
            return f"{name} is not whole: {len(content)} bytes"
    gone = [name for name, content in before.items() if after.get(name) == content and name not in now]
    return f"{gone} is gone" if gone else None


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2]))  # the project
    from fault_writers import CARELESS, WRITERS

    faults, every = Faults(sys.argv[1]), {**WRITERS, **CARELESS}
    reports = {writer: run(every[writer], faults, stride) for writer, stride in json.loads(sys.argv[2]).items()}
    print(json.dumps({writer: vars(report) for writer, report in reports.items()}))
