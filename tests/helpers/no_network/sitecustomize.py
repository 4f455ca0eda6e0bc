"""On the path of a Python, has it write down every address that it would connect to or look up, this machine's own aside,
and refuse."""

import os
import sys

_OWN = {"127.0.0.1", "::1", "localhost", "0.0.0.0", None, ""}


def _audit(event: str, arguments: tuple) -> None:
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        return
    address = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    host = address[0] if isinstance(address, tuple) else address
    if host not in _OWN and not str(host).startswith("/"):  # a path is a socket of this machine
        _write(f"{event} {address}")
        raise OSError(f"no network: {event} {address}")


def _write(line: str) -> None:
    with open(os.environ["MEMO_CALLS"], "a", encoding="utf-8") as file:
        file.write(line + "\n")


_write("guarded")
sys.addaudithook(_audit)
