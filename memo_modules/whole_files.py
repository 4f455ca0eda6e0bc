"""Files that are there wholly or not at all, whenever the process or the machine stops."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from .errors import StorageError

PARTIAL = ".part"
"""How the names of files end that are being written."""

NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}  # Windows lacks quotas


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Within, write the path that is given, in the same folder; it is renamed to ``path`` when it is on the disk.

    Raises StorageError when the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}{PARTIAL}")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StorageError(_no_room(path, partial, error)) from error
    finally:
        partial.unlink(missing_ok=True)


def _no_room(path: Path, partial: Path, error: OSError) -> str:
    written = partial.stat().st_size if partial.exists() else 0
    free = shutil.disk_usage(path.parent).free
    return (
        f"{path} could not be written ({os.strerror(error.errno)}): {written / 1e6:.1f} MB were written, and the disk has "
        f"{free / 1e6:.1f} MB left. The incomplete file is removed; free some space or choose another folder, and run again."
    )


def flush(folder: Path) -> None:
    """Have all files in ``folder`` and below on the disk, under their names."""
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_names(path)
        else:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    flush_names(folder)


def flush_names(folder: Path) -> None:
    """Have on the disk what is in ``folder`` under which name, where system and file system let one ask for it."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as shared folders of virtual machines answer
                raise
        finally:
            os.close(number)


def write_whole(path: Path, content: str) -> None:
    """Write text to a file, in place of what it held."""
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed left behind in ``folder`` and below."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)
