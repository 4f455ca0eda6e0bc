"""Model files from the Hugging Face hub: a file has its final name only when it is whole and verified.

What has come so far lies in `.downloads` next to the file, under the name of the content that it is a part of, so that
the next attempt continues from there, after an error, a cancel or the end of the process.
"""

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CheckpointError, DownloadError
from ..files.regular_files import open_regular, read_regular
from ..files.whole_files import NO_ROOM, flush_names, write_whole
from ..host import SILENT, Host
from ..words import file_size, hours
from . import aside, hub
from .catalogue import ModelFile
from .transfer import USER_AGENT, BrokenError, asked, fill, there

logger = logging.getLogger(__name__)

SAID_EVERY = 2.0
"""Seconds between two sentences of a download."""

_METADATA_TIMEOUT = 10.0
_ROOM = 2**26  # that a disk must keep free
_BLOCK = 2**20
_LARGEST = 2**50
_BEGINNINGS = {".onnx": tuple(b"\x08\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca"[i : i + 1] for i in range(11))}
_BEGINNINGS |= dict.fromkeys((".bin", ".pt", ".pth", ".ckpt"), (b"PK\x03\x04", b"\x80"))
"""By suffix: how a file may begin. The first bytes of an ONNX file are the number of one of its fields."""


@dataclass(frozen=True)
class _Remote:
    """A file as the hub describes it. sha256 or blob (git's hash of a small file): what its content must have, None where
    unknown. before: what was in its place when it was asked for, see _state."""

    file: ModelFile
    target: Path
    url: str
    size: int
    sha256: str | None
    blob: str | None
    before: tuple[int, int] | None

    @property
    def partial(self) -> Path:
        content = (self.sha256 or self.blob or "unknown")[:16]
        return self.target.parent / ".downloads" / f"{self.target.name}.{content}.partial"

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        return max(0, self.size - there(self.partial))


def fetch(files: Sequence[ModelFile], root: Path, host: Host = SILENT) -> None:
    """Bring ``files`` to their targets below ``root``; a file there under the same name is replaced.

    Files in the hub's own cache are taken from there. ``host`` gets the progress in bytes, and can interrupt whatever is
    waited for. Raises DownloadError when a file cannot be had, and MissingPackageError without huggingface_hub.
    """
    aside.called(hub.client, host.check_interrupt)  # its import takes long on a busy machine
    with hub.quiet():
        _fetch_all(files, root, host)


def _fetch_all(files: Sequence[ModelFile], root: Path, host: Host) -> None:
    for file in files:
        if (root / file.target).is_dir():
            raise DownloadError(f"{root / file.target} is a folder, where a file belongs. Move it elsewhere, then run again.")
    wanted = [file for file in files if not _taken_from_cache(file, root / file.target, host.check_interrupt)]
    if not wanted:
        return
    if reason := hub.unreachable():
        raise DownloadError(f"{reason}: run again with a connection, or {by_hand(wanted, root)}")
    remotes = [_ask(file, root / file.target, host.check_interrupt) for file in wanted]
    _check_room(remotes, root)
    total, before = sum(remote.size for remote in remotes), 0
    for remote in remotes:
        try:
            with _alone(remote, host.check_interrupt) as arrived:
                if not arrived:
                    logger.info("Downloading %s to %s (%s)", remote.url, remote.target, file_size(remote.size))
                    _fetch_one(remote, replace(host, progress=_telling(host, remote, before, total)))
        except DownloadError:
            raise
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DownloadError(f"{remote.target}: the disk is full. {_kept(remote)}Free some space, then run again.") from error
            raise DownloadError(f"{remote.target} cannot be written: {error.strerror or error}.") from error
        before += remote.size
        host.progress(before, total)


def _telling(host: Host, remote: _Remote, before: int, total: int) -> Callable[[int, int], None]:
    """Progress of one file, told as that of all, and in words from time to time: which file, how much of it, how fast, how long yet.

    before: bytes of the files before it. total: of all.
    """
    began, said, start = time.monotonic(), 0.0, remote.size - remote.missing

    def progress(done: int, _: int) -> None:
        nonlocal said
        host.progress(before + done, total)
        seconds = time.monotonic() - began
        if done > start and seconds - said >= SAID_EVERY:
            said, rate = seconds, (done - start) / seconds
            host.say(
                f"{remote.file.target}: {file_size(done)} of {file_size(remote.size)}, {file_size(rate)} a second, "
                f"{hours((total - before - done) / rate)} left for all {file_size(total)}"
            )

    return progress


def by_hand(files: Sequence[ModelFile], root: Path) -> str:
    """What to do without a download, for the end of a sentence: which files are missing, and whence they come."""
    targets = ", ".join(str(root / file.target) for file in files)
    return f"fetch by hand, from https://huggingface.co/{files[0].repository}: {targets}"


def verify(path: Path, size: int | None, sha256: str | None, check_interrupt: Callable[[], None] = lambda: None, blob: str | None = None) -> str:
    """SHA-256 of the file ``path``. Raises DownloadError when it has another size or hash than given."""
    found = path.stat().st_size
    if size is not None and found != size:
        raise DownloadError(f"{path} has {found} bytes, expected {size}.")
    whole, as_blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % found, usedforsecurity=False)
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            check_interrupt()
            whole.update(block)
            if blob:
                as_blob.update(block)
    if sha256 and whole.hexdigest() != sha256:
        raise DownloadError(f"{path} has SHA-256 {whole.hexdigest()}, expected {sha256}.")
    if blob and as_blob.hexdigest() != blob:
        raise DownloadError(f"{path} has git hash {as_blob.hexdigest()}, expected {blob}.")
    return whole.hexdigest()


def learned_sha256(path: Path) -> str | None:
    """What was written next to ``path`` when it was downloaded and verified."""
    try:
        found = re.match("[0-9a-f]{64}(?= )", read_regular(_record(path), 65).decode("ascii"))
    except (OSError, ValueError):  # there is none, or it is something else
        return None
    return found and found[0]


def _taken_from_cache(file: ModelFile, target: Path, check_interrupt: Callable[[], None]) -> bool:
    """Whether the hub's cache on this machine had the file: linked where one disk holds both, else copied."""
    cached = hub.client().try_to_load_from_cache(file.repository, file.path, revision=file.revision)
    if not isinstance(cached, str):
        return False
    source, partial = Path(cached).resolve(), target.parent / ".downloads" / f"{target.name}.cache.partial"
    sha256, blob = _hashes(source.name)  # the cache names contents by them
    known = file.sha256 or sha256 or blob
    try:
        found = verify(source, file.size, file.sha256 or sha256, check_interrupt, blob)
        if not known:
            _check_form(source)
        with _locked(partial.parent, target.name, check_interrupt):
            try:
                partial.unlink(missing_ok=True)  # of one that was killed
                try:
                    os.link(source, partial)
                except OSError:
                    _copy(source, partial, check_interrupt)
                _place(partial, target, found if known and not file.sha256 else None)
                _tell_difference(file, target, found)
            finally:
                with suppress(OSError):  # the next one does it
                    partial.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The hub's cache has %s, which is not used: %s", source, error)
        return False
    logger.info("Took %s from the hub's cache", target)
    return True


def _copy(source: Path, target: Path, check_interrupt: Callable[[], None]) -> None:
    with open_regular(source) as reading, target.open("xb") as writing:
        while block := reading.read(_BLOCK):
            check_interrupt()
            writing.write(block)
    _flush(target, check_interrupt)


def _flush(path: Path, check_interrupt: Callable[[], None]) -> None:
    """Have the file on the disk, which takes minutes where it is slow."""

    def flush() -> None:
        with path.open("r+b") as file:
            os.fsync(file.fileno())

    aside.called(flush, check_interrupt)


def _place(partial: Path, target: Path, learned: str | None) -> None:
    """Give a file its name. learned: its SHA-256 where the hub told it and the catalogue does not, to be checked later."""
    if learned:
        write_whole(_record(target), f"{learned}  {target.name}\n")
    else:
        _record(target).unlink(missing_ok=True)  # that of an older file
    os.replace(partial, target)
    flush_names(target.parent)


def _tell_difference(file: ModelFile, target: Path, sha256: str) -> None:
    if difference := file.difference(sha256):
        logger.warning(
            "%s is in its place, but %s. If you did not expect another version, or HF_ENDPOINT names a mirror, do not trust it.", target, difference
        )


def _hashes(etag: str) -> tuple[str | None, str | None]:
    """SHA-256, or git's hash, that an ETag of the hub is; it may be neither."""
    is_hash = all(digit in "0123456789abcdef" for digit in etag)
    return (etag if is_hash and len(etag) == 64 else None), (etag if is_hash and len(etag) == 40 else None)


def _ask(file: ModelFile, target: Path, check_interrupt: Callable[[], None]) -> _Remote:
    client, before = hub.client(), _state(target)
    url = client.hf_hub_url(file.repository, file.path, revision=file.revision)
    try:
        metadata = asked(
            lambda: client.get_hf_file_metadata(url, timeout=_METADATA_TIMEOUT, headers=dict(USER_AGENT)), url, _METADATA_TIMEOUT, check_interrupt
        )
    except BrokenError as error:
        raise DownloadError(f"{target} cannot be downloaded: {error}.") from error
    sha256, blob = _hashes(metadata.etag or "")
    if file.sha256 and sha256 and file.sha256 != sha256 or file.size and metadata.size and file.size != metadata.size:
        raise DownloadError(
            f"{url} is a different file ({metadata.size} bytes, SHA-256 {sha256}) from the one that MEMO expects ({file.size} bytes, "
            f"SHA-256 {file.sha256}): it was not downloaded. If HF_ENDPOINT names a mirror, try without it."
        )
    size = file.size or metadata.size
    if size is None or not 0 <= size < _LARGEST:
        raise DownloadError(f"{url}: the server does not say how large the file is, so it cannot be verified. Is HF_ENDPOINT a Hugging Face hub?")
    return _Remote(file, target, url, size, file.sha256 or sha256, blob, before)


def _check_room(remotes: list[_Remote], root: Path) -> None:
    disk = root
    while not disk.exists():
        if disk == disk.parent:
            raise DownloadError(f"{root} cannot be created: there is no {disk}. Plug it in, or take the folder out of extra_model_paths.yaml.")
        disk = disk.parent
    needed, free = sum(remote.missing for remote in remotes), shutil.disk_usage(disk).free
    if needed + _ROOM > free:
        raise DownloadError(
            f"{root} has room for {file_size(free)}, but the download needs {file_size(needed + _ROOM)}. Free some space, then run again."
        )


@contextmanager
def _alone(remote: _Remote, check_interrupt: Callable[[], None]) -> Iterator[bool]:
    """Keep other processes from the file; tells whether one of them has brought it meanwhile."""
    with _locked(remote.partial.parent, remote.target.name, check_interrupt):
        yield _state(remote.target) != remote.before


@contextmanager
def _locked(folder: Path, name: str, check_interrupt: Callable[[], None]) -> Iterator[None]:
    """Within, no other process brings the file ``name`` into ``folder``, which is made."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            check_interrupt()
    try:
        yield
    finally:
        lock.release()


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file, None when it is not there."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None


def _fetch_one(remote: _Remote, host: Host) -> None:
    """Bring one file, and once more from the start when it is not what was expected."""
    known = remote.sha256 or remote.blob
    if not known:
        remote.partial.unlink(missing_ok=True)  # of what, nobody knows
    for last in (False, True):
        try:
            fill(remote.url, remote.partial, remote.size, host)
        except BrokenError as error:
            raise DownloadError(f"{remote.target} could not be downloaded: {error}. {_kept(remote)}".rstrip()) from error
        try:
            sha256 = verify(remote.partial, remote.size, remote.sha256, host.check_interrupt, remote.blob)
            break
        except DownloadError as error:
            remote.partial.unlink()
            if last:
                raise DownloadError(
                    f"{remote.target} arrived corrupted twice and was discarded: {error} A proxy or mirror may be altering it."
                ) from error
            logger.warning("%s Fetching it again.", error)
    partial = remote.partial if known else _of_right_form(remote)
    _flush(partial, host.check_interrupt)
    _place(partial, remote.target, sha256 if known and not remote.file.sha256 else None)
    _tell_difference(remote.file, remote.target, sha256)
    for stale in remote.partial.parent.glob(f"{remote.target.name}.*.partial"):
        stale.unlink()


def _kept(remote: _Remote) -> str:
    there = remote.size - remote.missing
    return f"{file_size(there)} of it is kept; run again to continue. " if there else ""


def _of_right_form(remote: _Remote) -> Path:
    """The partial file of a content that nobody vouches for, under a name by which its readers know what it must be."""
    path = remote.partial.with_name(remote.target.name)
    os.replace(remote.partial, path)
    try:
        _check_form(path)
    except DownloadError as error:
        path.unlink()
        raise DownloadError(f"{remote.target} is not what {remote.url} sent, which was discarded: {error}") from error
    return path


def _check_form(path: Path) -> None:
    """Raises DownloadError when a file is not what its name says."""
    from ..weights import checkpoints, checks  # with torch, which nothing else here needs

    try:
        if path.suffix == ".json":
            checkpoints.read_json(path)
        elif path.suffix == ".safetensors":
            checkpoints.read_weights(path, header_only=True)
        else:
            fault = checks.pickle_fault if path.suffix in checks.PICKLES else checks.file_fault
            checks.raise_fault(fault(path))
            if not read_regular(path, 4).startswith(_BEGINNINGS.get(path.suffix, b"")):
                raise CheckpointError(f"{path} does not begin as a file of its kind does.")
    except CheckpointError as error:
        raise DownloadError(str(error).removesuffix(checks.REPAIR).rstrip()) from error


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")
