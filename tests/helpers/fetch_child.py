"""Fetches files in a process of its own, since the hub's client reads its environment when it is imported.

Reads a JSON object from standard input: files and root as for `fetch`, and what goes wrong on this side; writes one with
what came of it.
"""

import json
import resource
import shutil
import sys
import time
from collections import namedtuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project


class Cancelled(Exception):
    pass


def main(files, root, cancel_at=None, cancel_after=None, room=None, file_limit=None, metadata_timeout=10.0, pauses=(0.1, 0.1)):
    """cancel_at: bytes after which the user cancels, cancel_after: seconds. room: what the disk says it has. file_limit:
    bytes after which a write fails, as on a full disk. pauses: between attempts in which nothing came."""
    from memo_modules.errors import MemoError
    from memo_modules.host import Host
    from memo_modules.store import fetching, hub, transfer
    from memo_modules.store.catalogue import ModelFile

    hub.client()  # which takes long to import on a busy machine
    transfer.PACE, transfer._PAUSES = 0, pauses
    fetching._METADATA_TIMEOUT = metadata_timeout
    if room is not None:
        shutil.disk_usage = lambda _: namedtuple("usage", "free")(room)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    seen = []

    started = time.monotonic()

    def check_interrupt():
        if cancel_at is not None and seen and seen[-1][0] >= cancel_at:
            raise Cancelled
        if cancel_after is not None and time.monotonic() - started > cancel_after:
            raise Cancelled

    try:
        fetching.fetch([ModelFile(**file) for file in files], Path(root), Host(lambda *done: seen.append(done), check_interrupt))
        error, message = None, ""
    except (MemoError, Cancelled) as failure:
        error, message = type(failure).__name__, str(failure)
    return {"error": error, "message": message, "seconds": time.monotonic() - started, "progress": seen}


if __name__ == "__main__":
    print(json.dumps(main(**json.load(sys.stdin))))
