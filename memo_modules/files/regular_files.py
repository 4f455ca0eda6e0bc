"""Files that somebody else put there, opened only when they are files.

A named pipe, a device or a socket under a model's name would keep whoever opens it waiting for ever; an archive can hold
one, and a shared folder too.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # else the opening of a pipe waits for its other end
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)


class NotRegularError(OSError):
    """What lies under a file's name is something else: a named pipe, a device, a socket."""


def is_regular(path: Path) -> bool:
    """Whether ``path``, links followed, is a file whose status can be read."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a zero in its name
        return False


def open_regular(path: Path) -> BinaryIO:
    """``path`` opened to read bytes.

    Raises NotRegularError for what is no file, IsADirectoryError for a folder, and OSError as ``open`` does; never waits.
    """
    number = os.open(path, os.O_RDONLY | _AT_ONCE | _BINARY)
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise NotRegularError(errno.EINVAL, f"it is a {_kind(mode)}, not a file", str(path))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_regular(path: Path, most: int) -> bytes:
    """The first ``most`` bytes of a file. Raises as ``open_regular``."""
    with open_regular(path) as file:
        return file.read(most)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "named pipe", stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "special file")
