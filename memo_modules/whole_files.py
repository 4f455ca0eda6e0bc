"""Files that are there wholly or not at all, whenever the process or the machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

PARTIAL = ".part"
"""How the names of files end that are being written."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Within, write the path that is given, in the same folder; it is renamed to ``path`` when it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}{PARTIAL}")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str) -> None:
    """Write text to a file, in place of what it held."""
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed left behind in ``folder`` and below."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)
