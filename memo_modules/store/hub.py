"""The Hugging Face hub: its client, where it is, and whether it can be reached."""

import queue
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

from ..errors import DownloadError, MissingPackageError
from ..words import first_line, quoted

_PROBE_TIMEOUT = 1.2  # seconds; an error without a network has to come within two
_PORTS = {"http": 80, "https": 443}
_PROXY_PORTS = _PORTS | dict.fromkeys(("socks", "socks4", "socks4a", "socks5", "socks5h"), 1080)


def client():
    """huggingface_hub, which takes half a second to import."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.file_download
    except ImportError as error:
        raise MissingPackageError(f"Downloading models needs huggingface_hub ({error}): `pip install -r requirements.txt`.") from error
    except ValueError as error:  # of a variable that it reads
        raise DownloadError(f"huggingface_hub cannot be used ({first_line(error)}): one of the variables HF_... holds what it cannot.") from error
    return huggingface_hub


@contextmanager
def quiet() -> Iterator[None]:
    """Without the client's telemetry: it would look for the program that runs it, and ask the hub for a list of such."""
    constants = client().constants
    before, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before


def unreachable() -> str | None:
    """Why the hub cannot be asked, within two seconds; None when it, or the proxy on the way to it, takes connections.

    Raises DownloadError when HF_ENDPOINT or a proxy's variable holds no address.
    """
    constants = client().constants
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    scheme, host, port = _address("HF_ENDPOINT", constants.ENDPOINT, _PORTS, "https://huggingface.co")
    proxies = urllib.request.getproxies()
    kind = next((kind for kind in (scheme, "all") if proxies.get(kind)), None)
    if kind and not urllib.request.proxy_bypass(host):
        proxy = proxies[kind] if "//" in proxies[kind] else f"http://{proxies[kind]}"
        _, host, port = _address(f"{kind.upper()}_PROXY", proxy, _PROXY_PORTS, "http://127.0.0.1:7890")
    error = _connect(host, port)
    return error and f"{host} cannot be reached ({error})"


def _address(variable: str, value: str, ports: dict[str, int], example: str) -> tuple[str, str, int]:
    """Scheme, host and port of ``value``. Raises DownloadError when it names no server; a password in it is not shown."""
    try:
        address = urlsplit(value)
        scheme, host, port = address.scheme, address.hostname, address.port
    except ValueError:  # a port that is no number or too large, half a bracket
        scheme, host, port = "", None, None
    if not host or scheme not in ports or port == 0 or any(char.isspace() or not char.isprintable() for char in value):
        shown = value.rpartition("@")[2]
        raise DownloadError(f"{variable} is {quoted(shown)}, expected an address such as {example}. Set it right or unset it, and start anew.")
    return scheme, host, port or ports[scheme]


def _connect(host: str, port: int) -> str | None:
    """What is wrong when none of the addresses of ``host`` takes a connection in time. All are tried at once: the first of
    them often is one that this network does not get to."""
    outcomes, end = queue.SimpleQueue(), time.monotonic() + _PROBE_TIMEOUT

    def begin(action: Callable[[], object]) -> None:
        def run() -> None:
            try:
                outcomes.put(action())
            except (OSError, ValueError) as failure:  # ValueError: a name that is none, too long for one
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
        if isinstance(outcome, Exception):
            error = first_line(outcome)
            continue
        for *_, address in outcome:
            begin(partial(socket.create_connection, address[:2], _PROBE_TIMEOUT))
        under_way += len(outcome)
    return error
