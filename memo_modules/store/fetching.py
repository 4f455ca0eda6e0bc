"""Model files from the Hugging Face hub: a file has its final name only when it is whole and verified.

What has come so far lies in `.downloads` beside the file, under the name of the content that it is a part of, so that
the next attempt goes on from there, after an error, a cancel or the end of the process.
"""

import hashlib
import logging
import os
import queue
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DownloadError, MissingPackageError
from ..whole_files import NO_ROOM
from .catalogue import ModelFile

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Bytes there, bytes in all."""

_PROBE_TIMEOUT = 1.2  # seconds; an error without a network has to come within two
_METADATA_TIMEOUT = 10.0
_ATTEMPTS = 3  # without a byte between them
_ROOM = 2**26  # that a disk must keep free
_BLOCK = 2**22
_USER_AGENT = {"user-agent": "ComfyUI-MEMO"}  # the client's own tells versions of Python and torch


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
        return self.size - (self.partial.stat().st_size if self.partial.exists() else 0)


def fetch(
    files: Sequence[ModelFile],
    root: Path,
    progress: Progress = lambda done, total: None,
    check_interrupt: Callable[[], None] = lambda: None,
) -> None:
    """Bring ``files`` to their targets below ``root``; a file there under the same name is replaced.

    Files in the hub's own cache are taken from there. ``check_interrupt`` may raise, at every block. Raises
    DownloadError when a file cannot be had, and MissingPackageError without huggingface_hub.
    """
    with _quiet():
        _fetch_all(files, root, progress, check_interrupt)


def _fetch_all(files: Sequence[ModelFile], root: Path, progress: Progress, check_interrupt: Callable[[], None]) -> None:
    wanted = [file for file in files if not _taken_from_cache(file, root / file.target, check_interrupt)]
    if not wanted:
        return
    if reason := unreachable():
        raise DownloadError(f"{reason}: run again with a connection, or {by_hand(wanted, root)}")
    remotes = []
    for file in wanted:
        check_interrupt()
        remotes.append(_ask(file, root / file.target))
    _check_room(remotes, root)
    total, before = sum(remote.size for remote in remotes), 0
    for remote in remotes:
        try:
            with _alone(remote, check_interrupt) as arrived:
                if not arrived:
                    logger.info("Downloading %s to %s (%s)", remote.url, remote.target, megabytes(remote.size))
                    _fetch_one(remote, lambda done, before=before: progress(before + done, total), check_interrupt)
        except DownloadError:
            raise
        except OSError as error:
            raise DownloadError(f"{remote.target} cannot be written: {error.strerror or error}.") from error
        before += remote.size
        progress(before, total)


def by_hand(files: Sequence[ModelFile], root: Path) -> str:
    """What to do without a download, for the end of a sentence: which files are missing, and whence they come."""
    targets = ", ".join(str(root / file.target) for file in files)
    return f"fetch by hand, from https://huggingface.co/{files[0].repository}: {targets}"


def unreachable() -> str | None:
    """Why the hub cannot be asked, within two seconds; None when it, or the proxy on the way to it, takes connections."""
    constants = _client().constants
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    hub = urlsplit(constants.ENDPOINT)
    server = hub
    proxies = urllib.request.getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(hub.hostname or ""):
        server = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = server.port or (443 if server.scheme == "https" else 80)
    error = _connect(server.hostname, port)
    return error and f"{server.hostname} cannot be reached ({error})"


def _connect(host: str, port: int) -> str | None:
    """What is wrong when none of the addresses of ``host`` takes a connection in time. All are tried at once: the first of
    them often is one that this network does not get to."""
    outcomes, end = queue.SimpleQueue(), time.monotonic() + _PROBE_TIMEOUT

    def begin(action: Callable[[], object]) -> None:
        def run() -> None:
            try:
                outcomes.put(action())
            except OSError as failure:
                outcomes.put(failure)

        threading.Thread(target=run, daemon=True).start()  # looking up a name knows no time limit

    begin(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    under_way, error = 1, "no answer"
    while under_way:
        try:
            outcome = outcomes.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return error
        under_way -= 1
        if isinstance(outcome, socket.socket):
            outcome.close()
            return None
        if isinstance(outcome, OSError):
            error = str(outcome) or error
            continue
        for *_, address in outcome:
            begin(partial(socket.create_connection, address[:2], _PROBE_TIMEOUT))
        under_way += len(outcome)
    return error


def verify(path: Path, size: int | None, sha256: str | None, check_interrupt: Callable[[], None] = lambda: None, blob: str | None = None) -> str:
    """SHA-256 of the file ``path``. Raises DownloadError when it has another size or hash than given."""
    found = path.stat().st_size
    if size is not None and found != size:
        raise DownloadError(f"{path} has {found} bytes, expected {size}.")
    whole, as_blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % found, usedforsecurity=False)
    with path.open("rb") as file:
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
    """What was written beside ``path`` when it was downloaded and verified."""
    try:
        return _record(path).read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError):
        return None


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def _client():
    """huggingface_hub, which takes half a second to import."""
    try:
        import huggingface_hub
        import huggingface_hub.file_download
    except ImportError as error:
        raise MissingPackageError(f"Downloading models needs huggingface_hub ({error}): `pip install -r requirements.txt`.") from error
    return huggingface_hub


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the client's telemetry: it would look for the program that runs it, and ask the hub for a list of such."""
    constants = _client().constants
    before, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def _taken_from_cache(file: ModelFile, target: Path, check_interrupt: Callable[[], None]) -> bool:
    """Whether the hub's cache on this machine had the file: linked where one disk holds both, else copied."""
    cached = _client().try_to_load_from_cache(file.repository, file.path, revision=file.revision)
    if not isinstance(cached, str):
        return False
    source, partial = Path(cached).resolve(), target.parent / ".downloads" / f"{target.name}.{os.getpid()}.partial"
    sha256, blob = _hashes(source.name)  # the cache names contents by them
    try:
        verify(source, file.size, file.sha256 or sha256, check_interrupt, blob)
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
        os.replace(partial, target)
    except OSError as error:
        logger.warning("The hub's cache has %s, which is not used: %s", source, error)
        return False
    logger.info("Took %s from the hub's cache", target)
    return True


def _hashes(etag: str) -> tuple[str | None, str | None]:
    """SHA-256, or git's hash, that an ETag of the hub is; it may be neither."""
    is_hash = all(digit in "0123456789abcdef" for digit in etag)
    return (etag if is_hash and len(etag) == 64 else None), (etag if is_hash and len(etag) == 40 else None)


def _ask(file: ModelFile, target: Path) -> _Remote:
    hub, before = _client(), _state(target)
    url = hub.hf_hub_url(file.repository, file.path, revision=file.revision)
    try:
        metadata = hub.get_hf_file_metadata(url, timeout=_METADATA_TIMEOUT, headers=dict(_USER_AGENT))
    except Exception as error:
        raise DownloadError(f"{target} cannot be downloaded: {_reason(error, url)}.") from error
    sha256, blob = _hashes(metadata.etag or "")
    if file.sha256 and sha256 and file.sha256 != sha256 or file.size and metadata.size and file.size != metadata.size:
        raise DownloadError(
            f"{url} is a different file ({metadata.size} bytes, SHA-256 {sha256}) from the one that MEMO expects ({file.size} bytes, "
            f"SHA-256 {file.sha256}): it was not downloaded. If HF_ENDPOINT names a mirror, try without it."
        )
    size = file.size or metadata.size
    if size is None:
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
            f"{root} has room for {megabytes(free)}, but the download needs {megabytes(needed + _ROOM)}. Free some space, then run again."
        )


@contextmanager
def _alone(remote: _Remote, check_interrupt: Callable[[], None]) -> Iterator[bool]:
    """Keep other processes from the file; tells whether one of them has brought it meanwhile."""
    from filelock import FileLock, Timeout

    remote.partial.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(remote.partial.parent / f"{remote.target.name}.lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            check_interrupt()
    try:
        yield _state(remote.target) != remote.before
    finally:
        lock.release()


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file, None when it is not there."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None


def _fetch_one(remote: _Remote, progress: Callable[[int], None], check_interrupt: Callable[[], None]) -> None:
    """Bring one file, and once more from the start when it is not what was expected."""
    for last in (False, True):
        _fill(remote, progress, check_interrupt)
        try:
            sha256 = verify(remote.partial, remote.size, remote.sha256, check_interrupt, remote.blob)
            break
        except DownloadError as error:
            remote.partial.unlink()
            if last:
                raise DownloadError(
                    f"{remote.target} arrived corrupted twice and was discarded: {error} A proxy or mirror may be altering it."
                ) from error
            logger.warning("%s Fetching it again.", error)
    if not remote.file.sha256 and (remote.sha256 or remote.blob):
        _record(remote.target).write_text(f"{sha256}  {remote.target.name}\n", encoding="utf-8")
    os.replace(remote.partial, remote.target)
    for stale in remote.partial.parent.glob(f"{remote.target.name}.*.partial"):
        stale.unlink()


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


class _Sink:
    """What the client writes a partial file into. Each block shows progress and asks for an interrupt; ``interrupt`` is
    what the asking raised."""

    def __init__(self, file, progress: Callable[[int], None], check_interrupt: Callable[[], None]):
        self._file, self._progress, self._check_interrupt = file, progress, check_interrupt
        self.interrupt: BaseException | None = None

    def write(self, block: bytes) -> int:
        written = self._file.write(block)
        try:
            self._progress(self._file.tell())  # ComfyUI's progress bar asks too
            self._check_interrupt()
        except BaseException as interrupt:
            self.interrupt = interrupt
            raise
        return written

    def __getattr__(self, name: str):  # the client also asks where it is, rewinds and truncates
        return getattr(self._file, name)


def _fill(remote: _Remote, progress: Callable[[int], None], check_interrupt: Callable[[], None]) -> None:
    """Complete the partial file, over as many connections as it takes while something comes."""
    hub, failures = _client(), 0
    while True:
        if remote.missing < 0 or (remote.partial.exists() and not (remote.sha256 or remote.blob)):
            remote.partial.unlink()  # of what, nobody knows
        before = remote.missing
        with remote.partial.open("ab") as file:
            sink = _Sink(file, progress, check_interrupt)
            headers = hub.utils.build_hf_headers(headers=dict(_USER_AGENT))
            names = {"expected_size": remote.size, "displayed_filename": remote.target.name}
            try:
                hub.file_download.http_get(remote.url, sink, resume_size=remote.size - before, headers=headers, **names)
                error = None
            except Exception as failure:
                error = failure
            file.flush()
            os.fsync(file.fileno())
        if sink.interrupt:
            raise sink.interrupt
        if error is None:
            return
        failures = 0 if remote.missing < before else failures + 1
        if failures == _ATTEMPTS or not _is_passing(error):
            kept = f" {megabytes(remote.size - remote.missing)} of it is kept; run again to continue." if remote.missing < remote.size else ""
            raise DownloadError(f"{remote.target} could not be downloaded: {_reason(error, remote.url)}.{kept}") from error
        logger.warning("%s: %s. Continuing.", remote.url, _reason(error, remote.url))
        check_interrupt()


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: a connection that broke, not a full disk and not an answer that says no."""
    return _status(error) is None and not (isinstance(error, OSError) and error.errno in NO_ROOM)


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _reason(error: Exception, url: str) -> str:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return "the disk is full. Free some space, then run again"
    status = _status(error)
    if status == 404:
        return f"{url} does not exist (404)"
    if status in (401, 403):
        return f"access to {url} was denied ({status}). If the repository is gated, accept its terms and set HF_TOKEN"
    if status is not None:
        return f"{url} answered {status}"
    return f"{urlsplit(url).hostname}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
