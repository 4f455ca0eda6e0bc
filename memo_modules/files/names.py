"""Names of files that are made from names of other files."""

import hashlib
import os

_MOST = 160
"""Bytes: with what is put after it, such as `.safetensors` and the ending of a partial file, it stays below the 255 of most disks."""


def safe_name(name: str) -> str:
    """A name for a file made from that of another: the same, or where that is too long or no UTF-8, which not every library takes, its
    readable beginning and a hash of all of it."""
    raw = os.fsencode(name)
    readable = raw.decode("utf-8", errors="replace").replace("\ufffd", "_")
    if readable == name and len(raw) <= _MOST:
        return name
    beginning = readable.encode("utf-8")[: _MOST - 17].decode("utf-8", errors="ignore")
    return f"{beginning}-{hashlib.sha256(raw).hexdigest()[:16]}"
