"""Files that are there wholly or not at all, whenever the process or the machine stops, and that take no other's name."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from ..errors import InputError, MemoError, StorageError
from ..words import file_size

PARTIAL = ".part"
"""How the names of files end that are being written."""

NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}  # Windows lacks quotas

_ENDING = re.compile(r"\.[0-9a-f]{8}\.part")

_LONG_PATH = 120
"""Bytes from which on a partial file has no longer a name than the file: some disks take 143, and Windows 259 with all folders."""


@contextmanager
def whole_file(path: Path, replaces: bool = True, same: Callable[[Path, Path], bool] | None = None) -> Iterator[Path]:
    """Within, write the path that is given, in the same folder; it is renamed to ``path`` when it is on the disk.

    replaces: what has that name already goes. Else raises InputError when something has it, be it only at the end. same: asked
    about what was written and what has its name; where that is the same it stays, and counts as written. Raises StorageError
    when the disk does not take it.
    """
    if not replaces and not same and os.path.lexists(path):
        raise _taken(path)
    with _partial(path) as partial:
        yield partial
        _to_disk(partial)
        if replaces:
            os.replace(partial, path)
        elif not _claim(partial, path) and not (same and same(partial, path)):
            raise _taken(path)
        flush_names(path.parent)


def new_file(
    path: Path, write: Callable[[Path], None], again: Callable[[], Path] | None = None, claiming: Callable[[Path], None] = lambda path: None
) -> Path:
    """Have ``write`` write a file where it is told to, and give it the name ``path``, or the next one that nobody has.

    What has a name already is never replaced, whichever process gave it and when. again: asked for another path when the last
    one is taken; by default, and where that is taken too, a number is added to the name. claiming: called with each name
    before it is tried. Returns the path. Raises StorageError when the disk does not take it.
    """
    with _partial(path) as partial:
        write(partial)
        _to_disk(partial)
        path = _named(partial, path, again, claiming)
        flush_names(path.parent)
    return path


def move_new(source: Path, path: Path, again: Callable[[], Path] | None = None, claiming: Callable[[Path], None] = lambda path: None) -> Path:
    """Give ``source``, which is whole, the name ``path`` as ``new_file`` does; copied only where that is on another disk.

    claiming: called with each name before it is tried.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        moved = _named(source, path, again, claiming)
    except OSError:  # it is on another disk, or tells below what is wrong with this one
        return new_file(path, lambda partial: _copy(source, partial), again, claiming)
    with storing(moved):
        flush_names(moved.parent)
    return moved


def _copy(source: Path, partial: Path) -> None:
    try:
        shutil.copyfile(source, partial)
    except OSError as error:  # whichever of the two it names, it is the copy that is not there
        raise OSError(error.errno, error.strerror) from error


def _named(file: Path, path: Path, again: Callable[[], Path] | None, claiming: Callable[[Path], None]) -> Path:
    first, taken = path, set()
    while True:
        claiming(path)
        with storing(path):
            if _claim(file, path):
                return path
        taken.add(path)
        wanted = again() if again else first
        wanted.parent.mkdir(parents=True, exist_ok=True)
        path, number = wanted, 1
        while path in taken:
            number += 1
            path = wanted.with_name(f"{wanted.stem}_{number}{wanted.suffix}")


def _claim(file: Path, path: Path) -> bool:
    """Give ``file``, on the same disk, the name ``path`` unless something has it; whether that was done. Never replaces."""
    try:
        if os.name == "nt":
            os.rename(file, path)  # refuses a name that is taken; elsewhere it would replace what has it
            return True
        os.link(file, path)
    except FileExistsError:
        if not _same_file(file, path):  # as a network disk says that did it, and whose answer was lost
            return False
    except OSError as error:
        if os.name == "nt" or error.errno == errno.EXDEV:
            raise
        return _claim_without_links(file, path)
    with suppress(OSError):
        file.unlink()
    return True


def _claim_without_links(file: Path, path: Path) -> bool:
    """The same on a disk that has no links, as FAT: an empty file holds the name for the moment until ``file`` has it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    try:
        os.replace(file, path)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return True


def _same_file(file: Path, path: Path) -> bool:
    try:
        return os.path.samestat(file.lstat(), path.lstat())
    except OSError:
        return False


def _taken(path: Path) -> InputError:
    return InputError(f"{path} already exists. Remove it, or name another target.")


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Where to write what is to be ``path``; whatever happens, it is gone afterwards. Raises StorageError."""
    ending = f".{uuid4().hex[:8]}{PARTIAL}"
    begin = path.name
    if len(os.fsencode(path)) > _LONG_PATH:
        begin = begin[: -len(ending)] or begin[:1]
    partial = path.with_name(begin + ending)
    try:
        with storing(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def storing(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Within, what the system says against writing ``path``, a file or a folder, becomes a StorageError that names it.

    partial: what is written in its place at first. Errors that name another file pass.
    """
    try:
        yield
    except MemoError:
        raise
    except OSError as error:
        if not _concerns(error, path, partial or path):
            raise
        raise StorageError(_said(error, path, partial or path)) from error


def _concerns(error: OSError, path: Path, partial: Path) -> bool:
    """Whether an error says nothing of where it came from, or is of the file, a folder that it lies in, or what lies in it."""
    names = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    places = (path, partial, *path.parents)
    return not names or any(name in places or path in name.parents or partial in name.parents for name in names)


def _said(error: OSError, path: Path, partial: Path) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    try:
        written = partial.lstat().st_size if partial.is_file() else 0
        free = shutil.disk_usage(path.parent).free
    except OSError:
        written = free = 0
    if error.errno in NO_ROOM:
        return (
            f"{path} could not be written ({reason}): {file_size(written)} were written, and the disk has {file_size(free)} left. "
            "The incomplete file is removed; free some space or choose another folder, and run again."
        )
    return (
        f"{path} could not be written ({reason}). Nothing incomplete is kept; see that its folder can be written, or choose another, and run again."
    )


def _to_disk(file: Path) -> None:
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())


def flush(folder: Path) -> None:
    """Have all files in ``folder`` and below on the disk, under their names."""
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_names(path)
        else:
            _to_disk(path)
    flush_names(folder)


def flush_names(folder: Path) -> None:
    """Have on the disk what is in ``folder`` under which name, where system and file system let one ask for it."""
    if os.name != "posix":
        return
    try:
        number = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write there and not look
        return
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as shared folders of virtual machines answer
            raise
    finally:
        os.close(number)


def write_whole(path: Path, content: str, replaces: bool = True) -> None:
    """Write text to a file, in place of what it held, see whole_file."""
    with whole_file(path, replaces) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


def remove_partial(folder: Path, begin: str = "", below: bool = True) -> None:
    """Remove what writers that were killed left in ``folder``, and ``below`` it, of files whose names begin with ``begin``.

    They must be the caller's own, and nobody at work on them: what another process is writing looks the same.
    """
    for partial in (folder.rglob if below else folder.glob)(f"*{PARTIAL}"):
        if partial.name.startswith(begin) and _ENDING.fullmatch(partial.name[-14:]):
            with suppress(OSError):
                partial.unlink()
