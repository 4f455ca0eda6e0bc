"""Where the members of zip and tar archives lie, of those alone that torch writes: stored as they are, each in a place of its own.

Members are never unpacked, and their names never made paths.
"""

import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from ..words import quoted

MOST_MEMBERS = 2**17

_LONGEST_NAME = 1024

_ALL = 0xFFFFFFFF
"""In a field of 32 bits: the number stands in a longer one elsewhere."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes start..start+size-1 of a file."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class CompressedError(ValueError):
    """An archive is compressed: a small one could fill all memory."""


def _at(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    content = file.read(size)
    if len(content) != size:
        raise ValueError("it ends in the middle of its table of contents")
    return content


def zip_members(file: BinaryIO, length: int) -> dict[str, Span]:
    """Name to place of the members of a zip archive of ``length`` bytes.

    Raises ValueError saying what is wrong when it is damaged, or not as torch writes it: with names twice, members that
    are encrypted, links or overlap, or whose two headers differ; CompressedError when it is compressed.
    """
    count, start, end = _table(file, length)
    if not 0 < count <= MOST_MEMBERS:
        raise ValueError(f"an archive with {count} members, expected 1 to {MOST_MEMBERS}")
    if start > end or end - start > count * (46 + 3 * _LONGEST_NAME):
        raise ValueError("an archive with a damaged table of contents")
    table, at = _at(file, start, end - start), 0
    members: dict[str, Span] = {}
    taken: list[tuple[int, int]] = []
    for _ in range(count):
        name, header, size, at = _entry(table, at)
        if name in members:
            raise ValueError(f"an archive with the name {quoted(name)} twice")
        members[name] = span = _content(file, name, header, size, start)
        taken.append((header, span.end))
    if at != len(table):
        raise ValueError("an archive with a damaged table of contents")
    _check_apart(taken)
    return members


def _table(file: BinaryIO, length: int) -> tuple[int, int, int]:
    """Number of members, start and end of the table of contents, which is the last thing in the file."""
    end = length - 22
    if end < 0:
        raise ValueError("an archive that is cut off")
    mark, disk, first_disk, here, count, size, start, comment = struct.unpack("<4s4H2LH", _at(file, end, 22))
    if mark != b"PK\x05\x06" or comment:
        raise ValueError("an archive that is cut off, or with something after it")
    if end >= 76 and (locator := _at(file, end - 20, 20))[:4] == b"PK\x06\x07":
        disk, place, disks = struct.unpack("<LQL", locator[4:])
        if place != end - 76:
            raise ValueError("an archive with a damaged table of contents")
        mark, _, _, _, first_disk, own_disk, here, count, size, start = struct.unpack("<4sQ2H2L4Q", _at(file, place, 56))
        end = place
        if mark != b"PK\x06\x06" or own_disk:
            raise ValueError("an archive with a damaged table of contents")
    if disk or first_disk or here != count or start + size != end:
        raise ValueError("an archive in parts, or with a damaged table of contents")
    return count, start, end


def _entry(table: bytes, at: int) -> tuple[str, int, int, int]:
    """Name, place of the header and size of the member whose entry begins at ``at``, and where the next one does."""
    if len(table) - at < 46:
        raise ValueError("an archive with a damaged table of contents")
    (mark, made_by, _, flags, method, _, _, _, packed, size, n_name, n_extra, n_comment, disk, _, attributes, header) = struct.unpack_from(
        "<4s6H3L5H2L", table, at
    )
    end = at + 46 + n_name + n_extra + n_comment
    if mark != b"PK\x01\x02" or end > len(table) or n_name > _LONGEST_NAME:
        raise ValueError("an archive with a damaged table of contents")
    name = _name(table[at + 46 : at + 46 + n_name])
    if method:
        raise CompressedError("a compressed archive, not a model in torch's format")
    if flags & ~0x0808 or disk not in (0, 0xFFFF) or (made_by >> 8 == 3 and stat.S_ISLNK(attributes >> 16)):
        raise ValueError(f"an archive whose member {quoted(name)} is encrypted, a link, or in another file")
    size, packed, header = _long_numbers(table[at + 46 + n_name : at + 46 + n_name + n_extra], (size, packed, header))
    if packed != size:
        raise ValueError(f"an archive whose member {quoted(name)} has two sizes")
    return name, header, size, end


def _name(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("an archive with a name that is no text") from None


def _long_numbers(extra: bytes, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """``numbers``, with those that did not fit into 32 bits from the field of an entry that holds them, in their order."""
    if _ALL not in numbers:
        return numbers
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + size]
            longer = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            return tuple(next(longer, _ALL) if number == _ALL else number for number in numbers)
        at += 4 + size
    return numbers


def _content(file: BinaryIO, name: str, header: int, size: int, table: int) -> Span:
    """Where the content of a member lies, whose own header is at ``header``; the table of contents starts at ``table``."""
    if header + 30 > table:
        raise ValueError(f"an archive whose member {quoted(name)} lies outside it")
    mark, _, flags, method, _, _, _, packed, _, n_name, n_extra = struct.unpack("<4s5H3L2H", _at(file, header, 30))
    if mark != b"PK\x03\x04" or flags & ~0x0808 or method or packed not in (0, _ALL, size) or _at(file, header + 30, n_name) != name.encode():
        raise ValueError(f"an archive whose member {quoted(name)} has two headers that differ")
    span = Span(header + 30 + n_name + n_extra, size)
    if span.end > table:
        raise ValueError(f"an archive whose member {quoted(name)} lies outside it")
    return span


def _check_apart(taken: Iterable[tuple[int, int]]) -> None:
    before = 0
    for start, end in sorted(taken):
        if start < before:
            raise ValueError("an archive with members that lie in one another")
        before = end


def tar_members(file: BinaryIO, length: int) -> dict[str, Span]:
    """Name to place of the files in a tar archive of ``length`` bytes. Raises ValueError when it is damaged or has names twice."""
    members: dict[str, Span] = {}
    at = 0
    for _ in range(MOST_MEMBERS):
        if at + 512 > length:
            return members
        block = _at(file, at, 512)
        if not any(block):
            return members
        try:
            size = int(block[124:136].strip(b"\0 ") or b"0", 8)
        except ValueError:
            raise ValueError("a tar archive with a damaged header") from None
        if block[257:262] != b"ustar" or size < 0 or at + 512 + size > length:
            raise ValueError("a tar archive that is damaged or cut off")
        if block[156:157] in b"0\0":
            name = _name(block[:100].rstrip(b"\0"))
            if name in members:
                raise ValueError(f"an archive with the name {quoted(name)} twice")
            members[name] = Span(at + 512, size)
        elif block[156:157] not in b"xg":  # what says more of the next one, such as its time
            raise ValueError("a tar archive with links, folders or devices in it")
        at += 512 + -(-size // 512) * 512
    raise ValueError(f"an archive with more than {MOST_MEMBERS} members")
