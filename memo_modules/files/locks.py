"""Files that keep other processes from a folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, StorageError
from .regular_files import is_regular
from .whole_files import storing


@contextmanager
def locked(path: Path, busy: str, patience: float = 0, stays: bool = True) -> Iterator[None]:
    """Within, no other process holds the lock ``path``. stays: its file does afterwards; on Windows it does in any case.

    Raises InputError saying ``busy`` when one still holds it after ``patience`` seconds, InputError when something else lies
    there, and StorageError when the disk lets none be made.
    """
    from filelock import FileLock, Timeout

    with storing(path):
        if path.is_symlink() or (path.exists() and not is_regular(path)):
            raise InputError(f"{path} is not a file that this pack has made. Remove it, and run again: nothing else has to go.")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=patience, poll_interval=0.05)
        except Timeout:
            raise InputError(busy) from None
        except NotImplementedError:
            raise StorageError(
                f"{path.parent} is on a disk that has no locks, so that two processes could write there at once. Choose another."
            ) from None
    try:
        yield
    finally:
        if not stays:
            with suppress(OSError):  # before it is released, or it might be another's by then
                path.unlink()
        lock.release()
