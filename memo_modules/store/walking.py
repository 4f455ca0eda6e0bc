"""Folders that somebody filled: searched from the top down, links followed, but never in a circle and never without end.

ComfyUI lists models on the thread that serves everybody, and a link may lead to a whole disk or to a slow server.
"""

import logging
import os
import stat
import time
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from pathlib import Path

from ..weights.checks import permission_fault

logger = logging.getLogger(__name__)

_DEPTH = 7
"""Levels of folders, the root the first: deep enough for the published layout one level too deep."""

_MOST_FOLDERS, _MOST_ENTRIES = 20_000, 200_000
_OWN_TIME, _LINKED_TIME = (15.0, 2_000), (5.0, 500)
"""Seconds of searching all roots, and folders of each that are searched however long they take: a slow disk with models on it is no
endless one."""

_name = attrgetter("name")

KEPT = 600.0
"""Seconds for which what was found before a search was given up is taken for all: the next would take as long."""


@dataclass(slots=True)
class Folder:
    """A folder's names, in order. others: what is neither folder nor file, with what it is: "is a named pipe, not a file". links: which of the
    folders are links. link: the one by which it was reached, None for a root's own."""

    path: Path
    folders: list[str]
    files: list[str]
    others: dict[str, str]
    links: set[str]
    identity: tuple[int, int]
    link: Path | None = None


@dataclass
class Tree:
    """What a root holds, folders near it first. refused: name below the root to why it was not searched, or not to its end."""

    folders: list[Folder] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Part:
    """A root's own folders, or what links in it lead to, as far as they were searched. fault: why no further."""

    seconds: float
    certain: int
    searched: dict[str, Folder] = field(default_factory=dict)
    entries: int = 0
    spent: float = 0.0
    fault: tuple[str, str] | None = None
    until: float = 0.0

    def look(self, folder: Path, link: Path | None, root: Path, seen: set[tuple[int, int]]) -> Folder | None:
        """What is in a folder, which was reached by a link or is one of the root's own; None when it is left out, or one of
        those that were ``seen``."""
        if self.fault is None and (len(self.searched) >= _MOST_FOLDERS or (self.spent > self.seconds and len(self.searched) > self.certain)):
            self._stop(link, root)
        if self.fault:
            found = self.searched.get(str(folder))
            return found if found and found.identity not in seen else None
        begin, name = time.monotonic(), str(folder)
        try:
            status = os.stat(name)
            identity = status.st_dev, status.st_ino
            if identity in seen:
                return None
            with os.scandir(name) as entries:
                entries = list(islice(entries, _MOST_ENTRIES - self.entries + 1))
            found = self.searched[name] = _sorted_out(folder, entries, identity)
        finally:
            self.spent += time.monotonic() - begin
        self.entries += len(entries)
        if self.entries > _MOST_ENTRIES:
            self._stop(link, root)
        return found

    def _stop(self, link: Path | None, root: Path) -> None:
        name, holds, advice = (root.name, "holds", "Move what is no model out of it")
        if link:
            name, holds, advice = link.relative_to(root).as_posix(), "leads to", "Let the link lead to the folder of the models alone"
        reason = (
            f"{link or root} {holds} more than can be searched: after {len(self.searched)} folders with {self.entries} entries, in {self.spent:.0f} "
            f"seconds, the rest was left out. {advice}."
        )
        logger.warning("%s", reason)
        self.fault, self.until = (name, reason), time.monotonic() + KEPT


_given_up: dict[tuple[Path, bool], _Part] = {}
"""By root and whether it is of its links: parts whose search was given up."""


def forget() -> None:
    """Search anew what was too large: something was put there."""
    _given_up.clear()


def walk(root: Path) -> Tree:
    """What is in ``root`` and below. Raises nothing: what cannot be read is among the refused, or left out where it is gone."""
    parts = {linked: _part(root, linked) for linked in (False, True)}
    tree, seen, level = Tree(), set(), [(root, None)]
    for _ in range(_DEPTH):
        below = []
        for folder, link in level:
            try:
                found = parts[link is not None].look(folder, link, root, seen)
            except PermissionError:
                name = folder.relative_to(root).as_posix() if folder != root else root.name
                tree.refused[name] = permission_fault(folder)
                continue
            except OSError:  # not there, or gone meanwhile
                continue
            if found is None:
                continue
            seen.add(found.identity)
            found.link = link
            tree.folders.append(found)
            for name in found.folders:
                path = folder / name
                below.append((path, path if link is None and name in found.links else link))
        level = below
    for linked, part in parts.items():
        if part.fault:
            _given_up[root, linked] = part
            tree.refused.setdefault(*part.fault)
    return tree


def _part(root: Path, linked: bool) -> _Part:
    now = time.monotonic()
    part = _given_up.get((root, linked))
    if part and now < part.until:
        return part
    seconds, certain = _LINKED_TIME if linked else _OWN_TIME
    spent = sum(other.spent for (_, kind), other in _given_up.items() if kind == linked and now < other.until)
    return _Part(max(0.0, seconds - spent), certain)


def _sorted_out(folder: Path, entries: list[os.DirEntry], identity: tuple[int, int]) -> Folder:
    """Names with a dot before them are left out."""
    found = Folder(folder, [], [], {}, set(), identity)
    for entry in sorted(entries, key=_name):
        name = entry.name
        if name.startswith("."):
            continue
        try:
            if entry.is_dir():
                found.folders.append(name)
                if entry.is_symlink():
                    found.links.add(name)
            elif entry.is_file():
                found.files.append(name)
            else:
                mode = entry.stat().st_mode
                kind = "named pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
                found.others[name] = f"is a {kind}, not a file"
        except OSError:  # a link to nowhere, that nobody may follow, or in a circle: its reader says so
            found.files.append(name)
    return found
