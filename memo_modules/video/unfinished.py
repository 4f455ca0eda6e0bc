"""The folder of unfinished videos: who is at work on one, and which of them have been left for good.

How long one has been left is told such that a clock that is wrong can only keep too many. There are two witnesses, and both
have to say so: the times of its files, and the list of dates on which a session (a process) found it left. A session adds one
date at most, and another one only when it has itself run for a day by a clock that nobody sets; so a clock that jumps
once, and back, adds one. Times before this pack was written and times to come tell nothing, as does a list that is missing,
damaged or cannot be written.
"""

import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from ..errors import MemoError
from ..files.locks import locked
from ..files.regular_files import is_regular, read_regular
from ..files.whole_files import write_whole
from ..words import file_size

INPUTS, LOCK, SEEN = "inputs.safetensors", "lock", "seen.json"
"""Files of a journal: by the first it is known, the second is held by the process at work, the third lists dates."""

DAY = 86400
_EARLIEST = date(2020, 1, 1)
_MOST_READ = 1 << 16
_PATIENCE = 1.0
"""Seconds for which to wait for a lock: others hold it that long while they look how old a journal is."""

_log = logging.getLogger(__name__)
_own: set[Path] = set()
_counted: dict[Path, float] = {}


@dataclass(frozen=True)
class _Left:
    """A journal that nobody has open. files: name, size and time of what is in it. touched: when it was worked on, as far as
    that can be told, now if it cannot. dates: see above."""

    folder: Path
    files: tuple[tuple[str, int, float], ...]
    touched: float
    dates: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(size for _, size, _ in self.files)

    def is_old(self, max_age: float) -> bool:
        return time.time() - self.touched > max_age and len(self.dates) - 1 >= max_age / DAY


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within, no other process works on the journal in ``folder``, and this one never removes it for its age or size.

    Raises InputError when another one does, or when what should be its lock is something else.
    """
    _own.add(folder.resolve())
    with _locked(folder, _PATIENCE):
        with suppress(OSError):
            (folder / SEEN).unlink(missing_ok=True)
        yield


@contextmanager
def _locked(folder: Path, patience: float = 0) -> Iterator[None]:
    busy = f"{folder}: another ComfyUI is making this video. Wait for it, or choose another file name."
    with locked(folder / LOCK, busy, patience):
        yield
    if os.name == "nt" and not os.path.lexists(folder / INPUTS):  # removed, but for the lock, which was open
        shutil.rmtree(folder, ignore_errors=True)


def clean(root: Path, max_age: float, max_bytes: float) -> None:
    """Remove journals that have been left for ``max_age`` seconds, and of those that were left on an earlier day the oldest
    ones while all take more than ``max_bytes``. None that is open, and none that this process has worked on, for which
    none of the others has to make room."""
    found = []
    with suppress(OSError):
        for folder in root.iterdir():
            with suppress(OSError, MemoError):
                if folder.resolve() not in _own and not folder.is_symlink() and is_regular(folder / INPUTS):
                    with _locked(folder):
                        found.append(_look(folder))
    total = sum(left.size for left in found)
    for left in sorted(found, key=lambda left: (-len(left.dates), left.touched)):
        if left.is_old(max_age) or (total > max_bytes and len(left.dates) > 1):
            with suppress(OSError, MemoError), _locked(left.folder):
                if _files(left.folder) == left.files:
                    _log.info("Removing the unfinished video %s (%s), left since %s.", left.folder, file_size(left.size), time.ctime(left.touched))
                    remove(left.folder)
                    total -= left.size


def remove(folder: Path) -> None:
    """Remove a journal that is held. What it is known by goes last: of one that is half removed the rest is found again."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name not in (INPUTS, LOCK) and not path.is_dir():
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _look(folder: Path) -> _Left:
    """What there is to say of a journal; that it was found today is written down."""
    files, today = _files(folder), _day(time.time())
    dates = _dates(folder, today)
    if _may_count(folder, today, dates):
        dates.append(today.isoformat())
        _counted[folder] = time.monotonic()
        with suppress(MemoError):
            write_whole(folder / SEEN, json.dumps(dates))
    known = [written for _, _, written in files if _day(written) >= _EARLIEST and written <= time.time()]
    if len(known) < len(files):  # some were written while the clock was wrong: not before it was first found
        known = [time.mktime(date.fromisoformat(dates[0]).timetuple()) if dates else time.time()]
    return _Left(folder, files, max(known, default=time.time()), tuple(dates))


def _may_count(folder: Path, today: date, dates: list[str]) -> bool:
    """Whether this session may say that a day has passed."""
    if today < _EARLIEST or today.isoformat() in dates:
        return False
    return folder not in _counted or time.monotonic() - _counted[folder] >= DAY


def _dates(folder: Path, today: date) -> list[str]:
    """The days on which a session has found the journal left, ascending, as far as they can be."""
    try:
        found = json.loads(read_regular(folder / SEEN, _MOST_READ))
        days = {date.fromisoformat(day) for day in found}
    except (OSError, ValueError, TypeError, RecursionError):
        return []
    return [day.isoformat() for day in sorted(days) if _EARLIEST <= day <= today]


def _files(folder: Path) -> tuple[tuple[str, int, float], ...]:
    found = [(path.name, path.lstat()) for path in folder.iterdir() if path.name not in (LOCK, SEEN)]
    return tuple(sorted((name, file.st_size, file.st_mtime) for name, file in found if stat.S_ISREG(file.st_mode)))


def _day(moment: float) -> date:
    try:
        return datetime.fromtimestamp(moment).date()
    except (OSError, ValueError, OverflowError):
        return date.min
