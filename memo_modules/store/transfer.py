"""A file's bytes from the hub: never more than were announced, and Cancel is heard at any moment.

huggingface_hub's own downloads cannot be stopped in between, take what comes beyond the size, and sleep for as long as a
server asks; so its session (with its proxies, certificates and settings) is used, and what comes is read here.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import DownloadError
from ..files.regular_files import is_regular
from ..host import Host
from ..words import first_line, quoted
from . import aside, hub

logger = logging.getLogger(__name__)

T = TypeVar("T")

USER_AGENT = {"user-agent": "ComfyUI-MEMO"}  # the client's own tells versions of Python and torch
PACE = 0.2
"""Seconds between two steps of a progress bar."""

_ANSWER_TIMEOUT = 30.0  # seconds until all of an answer's headers are there
_PAUSES = (1, 2, 4, 8, 8)  # seconds between attempts in which nothing came; after the last it is an error
_LONGEST_PAUSE = 60  # that a server may ask for
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_BLOCK = 2**14
_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\*|\d{1,15})", re.ASCII)
_TOKEN = re.compile(r"Bearer [^\s'\"]+")  # as a client shows it that cannot send it


class BrokenError(Exception):
    """An attempt that did not bring what was asked for. pause: seconds that the server asks to wait, None where it asks for
    none. final: another attempt would come to the same."""

    def __init__(self, reason: str, pause: float | None = None, final: bool = False):
        super().__init__(reason)
        self.pause, self.final = pause, final


@dataclass
class Patience:
    """What to do after an attempt that broke: wait, or give up."""

    check_interrupt: Callable[[], None]
    failures: int = 0

    def after(self, broken: BrokenError, something_came: bool = False) -> None:
        """Wait before the next attempt. Raises BrokenError when there is to be none."""
        self.failures = 0 if something_came else self.failures + 1
        if broken.final or self.failures > len(_PAUSES):
            raise broken
        pause = broken.pause
        if pause is None:
            pause = _PAUSES[self.failures - 1] if self.failures else 0
        if pause > _LONGEST_PAUSE:
            raise BrokenError(f"{broken}, and asks to wait {pause:.0f} seconds") from broken
        logger.warning("%s. Trying again%s.", broken, f" in {pause:.0f} seconds" if pause else "")
        aside.wait(pause, self.check_interrupt)


def asked(ask: Callable[[], T], url: str, timeout: float, check_interrupt: Callable[[], None]) -> T:
    """What ``ask`` gets from the hub, once more while that is busy. timeout: of ``ask``, seconds. Raises BrokenError."""
    patience = Patience(check_interrupt)
    while True:
        try:
            return aside.result(ask, check_interrupt, 1.5 * timeout)
        except aside.AsideError as error:
            broken = broken_by(error.cause, url)
        if _status(broken.__cause__) not in _BUSY:
            raise broken
        patience.after(broken)


def fill(url: str, partial: Path, size: int, host: Host) -> None:
    """Complete the file ``partial`` to ``size`` bytes, over as many connections as it takes while something comes.

    Raises BrokenError with what came kept, and DownloadError with nothing kept when the server sends more than that.
    """
    patience, most = Patience(host.check_interrupt), there(partial)
    partial.touch()  # of no bytes none come
    while (have := there(partial)) != size:
        try:
            if have > size:
                partial.unlink()  # of something else
                have = 0
            _receive(url, partial, have, size, host)
        except BrokenError as broken:
            patience.after(broken, something_came=there(partial) > most)
            most = max(most, there(partial))


def there(partial: Path) -> int:
    """Bytes of it that have come; something else in its place is removed."""
    if not is_regular(partial) and os.path.lexists(partial):
        partial.unlink()
    return partial.stat().st_size if partial.exists() else 0


def _receive(url: str, partial: Path, have: int, size: int, host: Host) -> None:
    """One connection: the bytes from ``have`` on, or all where the server gives all."""
    headers = hub.client().utils.build_hf_headers(headers=dict(USER_AGENT)) | {"accept-encoding": "identity"}
    if have:
        headers["range"] = f"bytes={have}-"

    def ask(give: Callable[[Any], None]) -> None:
        _get(url, headers, give)

    try:
        with aside.given(ask, host.check_interrupt, _ANSWER_TIMEOUT) as parts:
            status, answered = next(parts)
            have = _start(url, status, answered, partial, have, size)
            _write(parts, url, partial, have, size, host)
    except aside.AsideError as error:
        raise broken_by(error.cause, url) from error.cause
    if there(partial) < size:
        raise BrokenError(f"{urlsplit(url).hostname} closed the connection early")


def _write(parts: Iterator[bytes], url: str, partial: Path, have: int, size: int, host: Host) -> None:
    due = time.monotonic() + PACE
    with partial.open("r+b" if partial.exists() else "wb") as file:
        file.seek(have)
        file.truncate()
        for block in parts:
            if have + len(block) > size:
                break
            file.write(block)
            have += len(block)
            if time.monotonic() >= due:
                file.flush()
                host.progress(have, size)
                due = time.monotonic() + PACE
        else:
            return
    partial.unlink()
    raise DownloadError(f"{url} sent more than the {size} bytes that it announced. What came was discarded; a proxy or mirror may be altering it.")


def _start(url: str, status: int, headers, partial: Path, have: int, size: int) -> int:
    """Where in the file the bytes begin that an answer brings. Raises BrokenError when they are not those asked for."""
    start, length = 0, headers.get("content-length", "")
    if status not in (200, 206, 416):
        raise BrokenError(f"{url} answered {status}", final=True)
    if status == 206:
        match = _RANGE.fullmatch(headers.get("content-range", ""))
        start = int(match[1]) if match and match[2] in ("*", str(size)) else None
    if status == 416 or start not in (0, have):
        partial.unlink(missing_ok=True)
        raise BrokenError(f"{url} does not continue at byte {have}: from the start", final=not have)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise BrokenError(f"{url} comes compressed ({quoted(headers['content-encoding'])}), which was not asked for", final=True)
    if length.isascii() and length.isdigit() and int(length[:18]) != size - start:
        raise BrokenError(f"{url} sends {quoted(length)} bytes {_of_kind(headers)}where {size - start} were announced", final=True)
    return start


def _of_kind(headers) -> str:
    kind = headers.get("content-type", "")
    return f"of {quoted(kind)} " if kind else ""


def _get(url: str, headers: dict[str, str], give: Callable[[Any], None]) -> None:
    """Give status and headers of an answer, then the bytes as they come."""
    with _opened(url, headers, hub.client().constants.HF_HUB_DOWNLOAD_TIMEOUT) as (response, blocks):
        if response.status_code >= 400 and response.status_code != 416:
            raise _StatusError(response)
        give((response.status_code, response.headers))
        if response.status_code in (200, 206):
            for block in blocks:
                give(block)


@contextmanager
def _opened(url: str, headers: dict[str, str], timeout: float):
    """A response and its bytes, undecoded. timeout: seconds without any."""
    session: Any = hub.client().get_session()
    if hasattr(session, "build_request"):  # httpx, which huggingface_hub has from version 1 on
        request = session.build_request("GET", url, headers=headers, timeout=timeout)
        response = session.send(request, stream=True, follow_redirects=True)
        blocks = response.iter_raw
    else:  # requests
        response = session.get(url, headers=headers, timeout=timeout, stream=True)

        def blocks():
            return response.raw.stream(_BLOCK, decode_content=False)

    try:
        yield response, blocks()
    finally:
        response.close()


class _StatusError(Exception):
    """An answer that says no, in the form of the client's own."""

    def __init__(self, response):
        super().__init__(f"status {response.status_code}")
        self.response = response


def broken_by(error: BaseException, url: str) -> BrokenError:
    """What an error of the client says, in our words."""
    response, status = getattr(error, "response", None), _status(error)
    if response is None or status is None:
        reason = _TOKEN.sub("Bearer ...", first_line(error))
        broken = BrokenError(f"{urlsplit(url).hostname}: {reason}")
    elif status in (401, 403):
        broken = BrokenError(f"access to {url} was denied ({status}). If the repository is gated, accept its terms and set HF_TOKEN", final=True)
    elif status == 404:
        broken = BrokenError(f"{url} does not exist (404)", final=True)
    else:
        broken = BrokenError(f"{url} answered {status}", _seconds(response.headers.get("retry-after")), final=status not in _BUSY)
    broken.__cause__ = error
    return broken


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _seconds(retry_after: str | None) -> float | None:
    """What a server asks to wait: seconds, or until a time."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.strip().isdigit():
        return float(retry_after.strip()[:12])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: of a time without a zone
        return None
