"""A small Hugging Face hub on 127.0.0.1 that serves folders as repositories and fails as it is told to.

With ``HF_ENDPOINT`` set to its address (or that passed as ``endpoint``), huggingface_hub's ``get_hf_file_metadata`` and
``http_get`` work on it. As a program: ``python hub_server.py --repository owner/name=DIR ...`` prints the address as its
first line and serves until stdin closes.
"""

import argparse
import functools
import gzip
import hashlib
import http.server
import os
import re
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # what every branch stands at; a revision that is a commit stays itself
PLAIN = "owner/plain"
LARGE_FILE = 64 * 1024  # from this size on a file is "large": named by its sha256 and served by the CDN

_BLOCK = 256 * 1024
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_CDN = re.compile(r"/cdn/([^/]+/[^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_ERROR_CODES = {401: "RepoNotFound", 403: "GatedRepo", 404: "EntryNotFound"}


@dataclass(frozen=True)
class Cut:
    """Sends that share of the bytes asked for, then closes the connection.

    ``reset``: as a lost network would (TCP reset: what is under way may be lost too), not as a server that ends early.
    """

    fraction: float
    reset: bool = False


@dataclass(frozen=True)
class Corrupt:
    """Flips the byte that lies at that share of the bytes asked for."""

    offset_fraction: float


@dataclass(frozen=True)
class Status:
    """Answers HEAD and GET with this status; stays until it is removed from the list, unless it happens ``once``."""

    code: int
    retry_after: str | None = None
    once: bool = False


@dataclass(frozen=True)
class Refuse:
    """Answers the GET of the content with this status."""

    code: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """Answers HEAD and GET with a web page, as the login page of a network does, saying nothing of its content; stays."""


@dataclass(frozen=True)
class Trickle:
    """Sends one byte at a time, of the body, of the headers before it, or ("metadata", which stays) of any answer at all."""

    part: str
    seconds: float = 0.05


@dataclass(frozen=True)
class Endless:
    """Sends bytes without end, as far as anybody can tell: 256 MB, so that a client which takes them all fills no disk."""


@dataclass(frozen=True)
class Longer:
    """Says that the content has more bytes than it has."""

    bytes: int


@dataclass(frozen=True)
class Bomb:
    """Sends a compressed body that grows a thousandfold."""


@dataclass(frozen=True)
class OtherRange:
    """Answers with a range that begins elsewhere than asked for."""


@dataclass(frozen=True)
class Silence:
    """Sends the headers (with ``headers=False`` nothing at all), then nothing for that long, then closes the connection."""

    seconds: float
    headers: bool = True


@dataclass(frozen=True)
class Slow:
    """Sends no faster than this."""

    bytes_per_second: float


@dataclass(frozen=True)
class IgnoreRange:
    """Answers 200 with the whole file, whatever range was asked for."""


Fault = Cut | Corrupt | Status | Refuse | Page | Trickle | Endless | Longer | Bomb | OtherRange | Silence | Slow | IgnoreRange
_PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"


class HubServer:
    """Serves folders as repositories; a context manager that starts and stops the server.

    repositories: the folder of each "owner/name". Any revision of theirs is what the folder holds at that time.

    ``url`` is the hub's address (known before the start), ``requests`` the requests so far in order, those at the CDN too,
    each as (method, path, Range header or None), ``authorizations`` the last Authorization header by path. ``faults`` gives,
    by a file's path inside its repository, the faults its next GETs meet, one each in order; a large file's GET is the one
    at the CDN, not the one that is redirected there. Change ``faults`` at any time; a file with none left is served well.
    With ``etags`` False it says of no content what it is, as a plain mirror; ``owner/plain`` is such a repository in any case.
    """

    def __init__(self, repositories: dict[str, Path]):
        self.repositories = repositories
        self.requests: list[tuple[str, str, str | None]] = []
        self.authorizations: dict[str, str | None] = {}
        self.faults: dict[str, list[Fault]] = {}
        self.etags = True
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        # The CDN has a port of its own: clients follow a HEAD's redirect within one origin, to where no X-Repo-Commit is.
        self._hub, self._cdn = _Listener(self), _Listener(self)
        # a host of another name, as the hub's is: clients ask the hub itself once more where they are sent on within it
        self.url, self.cdn_url = f"http://127.0.0.1:{self._hub.server_address[1]}", f"http://localhost:{self._cdn.server_address[1]}"

    def __enter__(self):
        for listener in (self._hub, self._cdn):
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()
        for listener in (self._hub, self._cdn):
            listener.shutdown()
            listener.server_close()
            listener.close_connections()

    def note_request(self, method: str, path: str, byte_range: str | None, authorization: str | None) -> None:
        with self._lock:
            self.requests.append((method, path, byte_range))
            self.authorizations[path] = authorization

    def standing_fault(self, path: str) -> Status | Page | Trickle | None:
        """What any request for this file is answered with, None when its content is served."""
        with self._lock:
            first = next(iter(self.faults.get(path, ())), None)
            if isinstance(first, Status) and first.once:
                self.faults[path].pop(0)
        standing = isinstance(first, Status | Page) or (isinstance(first, Trickle) and first.part == "metadata")
        return first if standing else None

    def take_fault(self, path: str) -> Fault | None:
        """The fault that this GET of the file's content meets."""
        with self._lock:
            waiting = self.faults.get(path)
            return waiting.pop(0) if waiting else None

    def pause(self, seconds: float) -> bool:
        """Waits that long; False as soon as the server stops."""
        return not self._stopping.wait(seconds)


class _Listener(socketserver.ThreadingTCPServer):
    """A port with a thread per connection."""

    daemon_threads = True  # server_close() waits for the others, silent ones included
    request_queue_size = 64

    def __init__(self, hub: HubServer):
        self.hub = hub
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request, client_address) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Ends what is under way; without it, connections that clients keep open would be served after the stop."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # the client has gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that goes away is no error
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as the hub does
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_) -> None:
        pass

    @property
    def _hub(self) -> HubServer:
        return self.server.hub

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self._hub.note_request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        if match := _RESOLVE.fullmatch(path):
            repository, revision, name = map(unquote, match.groups())
        elif match := _CDN.fullmatch(path):
            repository, name = map(unquote, match.groups())
            revision = None
        else:
            return self._send_error_answer(404, None)

        headers = {}
        if revision:
            headers["X-Repo-Commit"] = revision if re.fullmatch("[0-9a-f]{40}", revision) else COMMIT
        folder = self._hub.repositories.get(repository)
        if folder is None:
            # The hub tells those without a token that they are not authorized, not that there is no such repository.
            return self._send_error_answer(404 if "Authorization" in self.headers else 401, "RepoNotFound")
        fault = self._hub.standing_fault(name)
        if isinstance(fault, Status):
            headers |= {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return self._send_error_answer(fault.code, _ERROR_CODES.get(fault.code), headers)
        if isinstance(fault, Page):
            return self._send_page()
        if isinstance(fault, Trickle):
            return self._trickle(b"HTTP/1.1 200 OK\r\nX-Long: " + b"." * 10_000, fault.seconds)
        file = folder / name
        if ".." in name.split("/") or not file.is_file():
            return self._send_error_answer(404, "EntryNotFound", headers)

        stat = file.stat()
        large = stat.st_size >= LARGE_FILE
        etag = _etag(file, stat.st_size, stat.st_mtime_ns)
        etags = self._hub.etags and repository != PLAIN
        if large and revision and etags:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(stat.st_size)}
            headers |= {"Location": f"{self._hub.cdn_url}/cdn/{quote(repository)}/{quote(name)}", "Content-Length": "0"}
            return self._send_headers(302, headers)
        headers |= {"ETag": f'"{etag}"'} if etags else {}
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(file.name)}; filename=\"{file.name}\";"
        if self.command == "HEAD":
            return self._send_headers(200, headers | {"Content-Length": str(stat.st_size)})
        self._send_content(file, stat.st_size, headers, self._hub.take_fault(name))

    def _send_content(self, file: Path, size: int, headers: dict[str, str], fault: Fault | None) -> None:
        asked = None if isinstance(fault, IgnoreRange) else _parse_range(self.headers.get("Range"), size)
        start, stop = asked or (0, size)
        if start >= stop and asked:
            return self._send_error_answer(416, None, {"Content-Range": f"bytes */{size}"})
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        headers["Content-Length"] = str(stop - start)
        if self._send_otherwise(fault, headers, file, start):
            return

        if isinstance(fault, Silence):
            if fault.headers:
                self._send_headers(206 if asked else 200, headers)
            self._hub.pause(fault.seconds)
            self.close_connection = True
            return
        self._send_headers(206 if asked else 200, headers)
        block = _BLOCK
        flip = None
        if isinstance(fault, Cut):
            stop = start + int((stop - start) * fault.fraction)
        elif isinstance(fault, Corrupt):
            flip = min(start + int((stop - start) * fault.offset_fraction), stop - 1)
        elif isinstance(fault, Slow):
            block = max(1, int(fault.bytes_per_second / 20))
        for offset, data in _read(file, start, stop, block):
            if flip is not None and offset <= flip < offset + len(data):
                data[flip - offset] ^= 0xFF
            self.wfile.write(data)
            if isinstance(fault, Slow) and not self._hub.pause(len(data) / fault.bytes_per_second):
                self.close_connection = True
                return
        if isinstance(fault, Cut):
            self._cut(fault.reset)

    def _send_otherwise(self, fault: Fault | None, headers: dict[str, str], file: Path, start: int) -> bool:
        """Whether the fault was one after which nothing of the content is to be sent."""
        if isinstance(fault, Refuse):
            self._send_error_answer(fault.code, None, dict(fault.headers))
        elif isinstance(fault, Endless):
            del headers["Content-Length"]
            self._send_headers(200, headers | {"Connection": "close"})
            for _ in range(2**28 // _BLOCK):
                if not self._hub.pause(0):
                    break
                self.wfile.write(bytes(_BLOCK))
        elif isinstance(fault, Longer):
            self._send_headers(200, headers | {"Content-Length": str(int(headers["Content-Length"]) + fault.bytes)})
            self.wfile.write(file.read_bytes() + bytes(fault.bytes))
        elif isinstance(fault, Bomb):
            bomb = gzip.compress(bytes(2**24))
            self._send_headers(200, headers | {"Content-Encoding": "gzip", "Content-Length": str(len(bomb))})
            self.wfile.write(bomb)
        elif isinstance(fault, OtherRange):
            self._send_headers(206, headers | {"Content-Range": f"bytes {start + 1}-{start + 1}/{file.stat().st_size}", "Content-Length": "1"})
            self.wfile.write(b"!")
        elif isinstance(fault, Trickle):
            if fault.part == "body":
                self._send_headers(200, headers)
            self._trickle(file.read_bytes() if fault.part == "body" else b"HTTP/1.1 200 OK\r\nX-Long: " + b"." * 10_000, fault.seconds)
        else:
            return False
        return True

    def _trickle(self, content: bytes, seconds: float) -> None:
        self.close_connection = True
        for i in range(len(content)):
            self.wfile.write(content[i : i + 1])
            if not self._hub.pause(seconds):
                return

    def _send_page(self) -> None:
        self._send_headers(200, {"Content-Type": "text/html", "Content-Length": str(len(_PAGE))})
        if self.command != "HEAD":
            self.wfile.write(_PAGE)

    def _cut(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # No lingering on close is what sends a reset; rfile holds the socket open as well.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if os.name == "nt" else "ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def _send_error_answer(self, code: int, error_code: str | None, headers: dict[str, str] | None = None) -> None:
        phrase = HTTPStatus(code).phrase
        body = phrase.encode()
        headers = {**(headers or {}), "Content-Type": "text/plain", "Content-Length": str(len(body)), "X-Error-Message": phrase}
        if error_code:
            headers["X-Error-Code"] = error_code
        self._send_headers(code, headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@functools.cache
def _etag(file: Path, size: int, mtime_ns: int) -> str:
    """What the hub names the content by: the sha256 of a large file, git's blob hash of a small one.

    mtime_ns is there for the cache: a file that has changed is hashed again.
    """
    digest = hashlib.sha256() if size >= LARGE_FILE else hashlib.sha1(b"blob %d\0" % size)
    for _, data in _read(file, 0, size, _BLOCK):
        digest.update(data)
    return digest.hexdigest()


def _read(file: Path, start: int, stop: int, block: int) -> Iterator[tuple[int, bytearray]]:
    """The bytes from start to stop as (offset, data)."""
    with file.open("rb") as source:
        source.seek(start)
        while start < stop and (data := source.read(min(block, stop - start))):
            yield start, bytearray(data)
            start += len(data)


def _parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """A Range header as (start, stop); None for the whole file, which several ranges at once get too."""
    match = _RANGE.fullmatch(header or "")
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves folders as Hugging Face repositories until stdin closes.")
    parser.add_argument("--repository", action="append", required=True, metavar="owner/name=DIR")
    arguments = parser.parse_args()
    repositories = {}
    for argument in arguments.repository:
        name, _, folder = argument.partition("=")
        if not Path(folder or "?").is_dir():
            parser.error(f"--repository {argument}: not owner/name=DIR with a folder that exists")
        repositories[name] = Path(folder)
    with HubServer(repositories) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
