"""Files elsewhere: in object stores and on web servers, by their URL, through fsspec.

It comes with torch and huggingface_hub; a store may need a package of its own, which the error names.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingPackageError, StorageError
from ..words import first_line, quoted
from .whole_files import NO_ROOM, PARTIAL, whole_file

PROTOCOLS = ("file", "memory", "http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs", "sftp", "smb", "hf")
"""Those that only read and write files: some of fsspec's others run what a URL says."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://.")


def is_url(text: object) -> bool:
    return isinstance(text, str) and bool(_URL.match(text))


def fetched(url: str, folder: Path) -> Path:
    """A copy of the file at ``url`` in ``folder``, made unless the one of what is there now is there already. Raises InputError when it cannot
    be read, MissingPackageError, and StorageError when the disk takes no more."""
    with _reading(url):
        files, place = _opened(url)
        version = hashlib.sha256(f"{url} {files.ukey(place)}".encode()).hexdigest()[:32]
    path = folder / f"{version}{Path(place).suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, _reading(url):
            files.get_file(place, str(partial))
    return path


class Store:
    """A folder elsewhere, for results. Raises what fetched does, with StorageError for what cannot be written."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        with _writing(url):
            self._files, self._root = _opened(self.url)

    def has(self, name: str) -> bool:
        with _writing(f"{self.url}/{name}"):
            self._files.invalidate_cache()
            return self._files.exists(self._place(name))

    def names(self) -> set[str]:
        """Of all files in it, with / between folders."""
        with _writing(self.url):
            self._files.invalidate_cache()
            found = self._files.find(self._root) if self._files.exists(self._root) else []
        return {posixpath.relpath(place, self._root) for place in found}

    def put(self, path: Path, name: str) -> None:
        """Write a file there, which has its name only when it is whole."""
        place = self._place(name)
        with _writing(f"{self.url}/{name}"):
            self._files.makedirs(posixpath.dirname(place), exist_ok=True)
            self._files.put_file(str(path), f"{place}{PARTIAL}")
            self._files.mv(f"{place}{PARTIAL}", place)

    def _place(self, name: str) -> str:
        return posixpath.join(self._root, name)


def _opened(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it."""
    match = _URL.match(url)
    if not match or match[1].lower() not in PROTOCOLS or "::" in url:
        raise InputError(f"expected a URL that begins with one of {', '.join(PROTOCOLS)}, got {quoted(url)}.")
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingPackageError(f"{quoted(url)} needs fsspec ({error}): pip install fsspec") from error
    try:
        return url_to_fs(url)
    except ImportError as error:  # says which package the protocol takes
        raise MissingPackageError(f"{quoted(url)}: {first_line(error)}") from error


@contextmanager
def _reading(url: str) -> Iterator[None]:
    try:
        yield
    except (InputError, MissingPackageError, StorageError):
        raise
    except Exception as error:  # each store has errors of its own
        if isinstance(error, OSError) and error.errno in NO_ROOM:  # of the disk here
            raise
        raise InputError(f"{quoted(url)} cannot be read ({type(error).__name__}: {first_line(error)}).") from error


@contextmanager
def _writing(url: str) -> Iterator[None]:
    try:
        yield
    except (InputError, MissingPackageError):
        raise
    except Exception as error:
        raise StorageError(f"{quoted(url)} cannot be reached or written ({type(error).__name__}: {first_line(error)}).") from error
