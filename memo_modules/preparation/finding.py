"""Which files of a folder are videos, what else is there, and what cannot be looked at: nothing is passed over without a word."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..files.regular_files import read_regular
from ..words import printable, quoted, shortened

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v"),
    *(".mts", ".m2ts", ".m2t", ".ts", ".mpg", ".mpeg", ".mpe", ".m2v", ".vob", ".mxf", ".ogv", ".dv"),
)
"""Suffixes of the files that count as videos whatever is in them, in upper or lower case."""

_BOXES = {b"ftyp", b"moov", b"mdat", b"wide"}
_NO_VIDEOS = {b"M4A ", b"M4B ", b"M4P ", b"heic", b"heix", b"heif", b"mif1", b"avif", b"crx "}
"""How mp4 and mov begin, and the brands of sound and still pictures that begin the same."""

_BEGINNINGS = (
    *(b"\x1a\x45\xdf\xa3", b"FLV\x01", b"GIF8", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"),  # mkv and webm, flv, gif, mpg, m2v
    *(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\x06\x0e\x2b\x34\x02\x05\x01\x01"),  # wmv, mxf
)

_HEAD = 512
"""Bytes that are read of a file whose name says nothing."""

_KINDS_NAMED = 8


@dataclass(frozen=True)
class Found:
    """videos: sorted; by their name, or by their first bytes where the name says nothing. refused: what may be meant as one and is no file, to
    the reason. others: of the files that are none, how many there are of each suffix."""

    videos: list[Path] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def passed_over(self) -> str:
        """The others in a line, such as "3 *.jpg, 1 hidden"; empty where there are none."""
        kinds = sorted(self.others.items(), key=lambda kind: (-kind[1], kind[0]))
        rest = sum(count for _, count in kinds[_KINDS_NAMED:])
        return ", ".join([f"{count} {kind}" for kind, count in kinds[:_KINDS_NAMED]] + [f"{rest} of other kinds"] * bool(rest))


def find_videos(folder: Path, leave_out: Path | None = None) -> Found:
    """The videos in a folder and below; links to folders are followed, each folder once. None that are hidden or below ``leave_out``.

    Raises InputError when there are none.
    """
    if not folder.is_dir():
        raise InputError(f"videos: {folder} is not a folder.")
    found, folders = Found(), _Folders(folder, leave_out)
    for path in folders.files():
        _sort_in(path, found)
    found.videos.sort()
    found.refused.update(folders.unreadable)
    found.others.update({"hidden": folders.hidden} if folders.hidden else {})
    for place in folders.seen:
        if place.suffix.lower() in SUFFIXES and place != folder and not any(place in video.parents for video in found.videos):
            found.refused[place] = "it is a folder, with no video in it."
    if not found.videos:
        there = f" There are {found.passed_over}." if found.others else ""
        refused = "".join(f" {path}: {reason}" for path, reason in sorted(found.refused.items())[:_KINDS_NAMED])
        raise InputError(f"videos: {folder} and the folders in it hold none of {', '.join('*' + suffix for suffix in SUFFIXES)}.{there}{refused}")
    return found


class _Folders:
    """A walk through folders. seen: those it came through. unreadable: to the reason. hidden: files and folders that were left out."""

    def __init__(self, top: Path, leave_out: Path | None):
        self.top, self.leave_out = top, leave_out
        self.seen: list[Path] = []
        self.unreadable: dict[Path, str] = {}
        self.hidden = 0

    def files(self):
        """Paths of what is not a folder."""
        real = {os.path.realpath(self.top)}
        for place, folders, files in os.walk(self.top, onerror=self._refuse, followlinks=True):
            if self.leave_out and Path(place).is_relative_to(self.leave_out):
                folders[:] = []
                continue
            self.seen.append(Path(place))
            shown = [name for name in sorted(folders) if not name.startswith(".")]
            self.hidden += len(folders) - len(shown) + sum(name.startswith(".") for name in files)
            folders[:] = []
            for name in shown:
                if (target := os.path.realpath(os.path.join(place, name))) not in real:
                    real.add(target)
                    folders.append(name)
            yield from (Path(place, name) for name in files if not name.startswith("."))

    def _refuse(self, error: OSError) -> None:
        self.unreadable[Path(error.filename)] = f"the folder cannot be read ({error.strerror})."


def _sort_in(path: Path, found: Found) -> None:
    """Put what is not a folder where it belongs."""
    named = path.suffix.lower() in SUFFIXES
    if path.is_file():
        if named or _begins_as_video(path):
            found.videos.append(path)
            return
    elif path.is_symlink() and not path.exists():
        found.refused[path] = f"a link that leads nowhere, or to itself (to {quoted(os.readlink(path))})."
        return
    elif named:
        found.refused[path] = "it is a named pipe, a device or a socket, not a file."
        return
    found.others[f"*{shortened(printable(path.suffix.lower()), 12)}" if path.suffix else "without a suffix"] += 1


def _begins_as_video(path: Path) -> bool:
    """Whether the first bytes are those of a video or an animation; not where they cannot be read."""
    try:
        head = read_regular(path, _HEAD)
    except OSError:
        return False
    if head[4:8] in _BOXES:
        return head[8:12] not in _NO_VIDEOS
    if head.startswith(b"RIFF"):
        return head[8:12] == b"AVI " or (head[8:16] == b"WEBPVP8X" and bool(head[20:21] and head[20] & 2))
    if head.startswith(b"OggS"):
        return b"theora" in head
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head
    packets = any(head[first : first + 2 * size + 1 : size] == b"GGG" for first, size in ((0, 188), (4, 192)))  # ts, m2ts
    return (packets and not head.isascii()) or head.startswith(_BEGINNINGS)
