"""What a pickle says, read as plain data: nothing that it names is imported, looked up, called or given an attribute.

A pickle is a program for a small machine. This one knows the instructions of protocols 0 to 5, and makes of them numbers,
texts, lists, tuples and mappings, and notes of what makes a tensor. All else that a pickle may ask for (objects, calls,
sets, bytes) becomes INERT, which holds nothing. Depth costs nothing, since nothing here calls itself.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from .arrays import Array, NumberType, part_of_array

MOST_STEPS = 2_000_000
"""Instructions of a pickle, and with them its values: 50,000 tensors take as many. They fill less than 200 MB."""

_LONGEST_TEXT = 4096
"""Bytes of a text; a longer one names no tensor, and is passed over."""

_LONGEST_NUMBER = 16
"""Bytes of a whole number; the one that opens torch's older files has ten."""


class Inert:
    """What is not plain data."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "an object"


INERT = Inert()


@dataclass(frozen=True, slots=True)
class Named:
    """The name of a function or a class."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call that makes a tensor: the name of the function, and what it would be given."""

    function: str
    args: tuple


MAPPINGS = {Named(module, "dict") for module in ("builtins", "__builtin__")} | {
    Named("collections", name) for name in ("OrderedDict", "defaultdict", "Counter")
}

_MAKE_TENSORS = ("torch._utils", "torch._tensor", "torch.tensor")

PARAMETER = Named("torch.nn.parameter", "Parameter")


def makes_tensor(function: object) -> bool:
    """Whether ``function`` is the name of one with which torch makes tensors of what it wrote."""
    return isinstance(function, Named) and (function == PARAMETER or (function.module in _MAKE_TENSORS and function.name.startswith("_rebuild_")))


def read_pickle(file: BinaryIO, end: int, persistent: Callable[[Any], Any] = lambda name: INERT) -> Any:
    """What the pickle says that begins where ``file`` stands and ends before the byte ``end``; the file then stands after it.

    persistent: what a reference to something outside the pickle stands for. A mapping is a dict of what has a text for a
    name; other keys are left out. Raises ValueError saying what is wrong when it is no pickle, or larger than any
    that torch writes.
    """
    return _Machine(file, end, persistent).run()


class _Machine:
    """``stack`` holds what was made since the last mark, ``below`` what was there before each mark."""

    def __init__(self, file: BinaryIO, end: int, persistent: Callable[[Any], Any]):
        self.file, self.end, self.persistent = file, end, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}  # by number, however high: only what was put in takes memory
        self.left = MOST_STEPS

    def run(self) -> Any:
        read, steps = self.file.read, _STEPS
        try:
            while True:
                self.left -= 1
                code = read(1)
                if code == b".":
                    break
                step = steps.get(code)
                if step is None:
                    raise ValueError(f"it has no instruction {code.hex()}" if code else "it ends in the middle")
                if self.left < 0:
                    raise ValueError(f"it has more than {MOST_STEPS} steps")
                step(self)
            held = self.stack.pop()
        except (IndexError, KeyError):
            raise ValueError("it uses what it has not made") from None
        if self.file.tell() > self.end:
            raise ValueError("it continues after its end")
        return held

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError(f"it has more than {MOST_STEPS} steps")

    # Reading

    def take(self, size: int) -> bytes:
        content = self.file.read(size)
        if len(content) != size:
            raise ValueError("it ends in the middle")
        return content

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        content = self.file.readline(_LONGEST_TEXT)
        if not content.endswith(b"\n"):
            raise ValueError("it has a line without an end")
        return content[:-1].decode(errors="replace").rstrip("\r")

    def skip(self, size: int) -> None:
        target = self.file.tell() + size
        if size < 0 or target > self.end:
            raise ValueError("it ends in the middle")
        self.file.seek(target)

    def to_mark(self) -> list[Any]:
        """What was made since the last mark, which is taken away."""
        items, self.stack = self.stack, self.below.pop()
        return items

    # Numbers and texts

    def text(self, form: str) -> None:
        size = self.number(form)
        if not 0 <= size <= _LONGEST_TEXT:
            self.skip(size)
            self.stack.append(INERT)
            return
        try:
            self.stack.append(self.take(size).decode())
        except UnicodeDecodeError:
            self.stack.append(INERT)

    def data(self, form: str) -> None:
        self.skip(self.number(form))
        self.stack.append(INERT)

    def whole(self, form: str) -> None:
        size = self.number(form)
        if not 0 <= size <= _LONGEST_NUMBER:
            self.skip(size)
            self.stack.append(INERT)
        else:
            self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def written_number(self, kind: type) -> None:
        line = self.line()
        if kind is int and line in ("00", "01"):
            self.stack.append(line == "01")
            return
        digits = line.removesuffix("L") if kind is int else line
        self.stack.append(kind(digits) if len(digits) <= 40 and digits.isascii() else INERT)

    # Containers

    def wrap(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        if len(items) < size:
            raise IndexError
        self.stack[-size:] = (items,)

    def push_marked(self, kind: type) -> None:
        items = self.to_mark()
        self.stack.append(kind(items))

    def mapping(self) -> None:
        items = self.to_mark()
        made: dict[str, Any] = {}
        _fill(made, items)
        self.stack.append(made)

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target += items
        elif target is not INERT:
            raise ValueError("it adds to what is no list")

    def set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is dict:
            _fill(target, items)
        elif target is not INERT:
            raise ValueError("it gives names in what is no mapping")

    def drop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pass_over(self, given: Any) -> None:
        """An object, or a set, is given something."""
        if not self.stack:
            raise IndexError

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Array | NumberType):
            target.build(state)

    def unknown(self, made_of: Any) -> None:
        self.stack.append(INERT)

    # Names, objects and calls

    def name(self) -> None:
        module = self.line()
        self.stack.append(Named(module, self.line()))

    def name_from_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("it has a name that is no text")
        self.stack.append(Named(module, name))

    def call(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.made(function, args))

    def call_with_options(self) -> None:
        self.stack.pop()
        self.call()

    def call_marked(self) -> None:
        function, *args = self.to_mark() or [INERT]
        self.stack.append(self.made(function, tuple(args)))

    def call_named(self) -> None:
        self.name()
        function = self.stack.pop()
        args = self.to_mark()
        self.stack.append(self.made(function, tuple(args)))

    def made(self, function: Any, args: Any) -> Any:
        """What stands for a call, or for an object."""
        if type(args) is not tuple:
            return INERT
        if makes_tensor(function):
            return Called(function.name, args)
        if type(function) is not Named or function not in MAPPINGS:
            part = part_of_array(function.module, function.name, args) if type(function) is Named else None
            return INERT if part is None else part
        made: dict[str, Any] = {}
        given = args[-1] if args else None
        if type(given) is dict:
            self.spend(len(given))
            made |= given
        elif type(given) is list:  # of pairs, as Python 2 writes an OrderedDict
            self.spend(len(given))
            for pair in given:
                if type(pair) in (list, tuple) and len(pair) == 2:
                    _fill(made, pair)
        return made

    def reference(self, name: Any) -> None:
        self.stack.append(self.persistent(name))

    # The memo

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])


def _fill(mapping: dict[str, Any], items: list[Any] | tuple) -> None:
    """Names and values in turn."""
    if len(items) % 2:
        raise ValueError("it has a name without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is str:
            mapping[key] = value


def _line_as_index(machine: _Machine) -> int:
    line = machine.line()
    if not (line.isascii() and line.isdigit() and len(line) <= 10):
        raise ValueError("it has a memo without a number")
    return int(line)


_Step = Callable[[_Machine], Any]


def _push(value: Any) -> _Step:
    return lambda machine: machine.stack.append(value)


_OBJECTS: dict[bytes, _Step] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME: how much to read ahead
    b"b": lambda m: m.build(m.stack.pop()),  # BUILD: attributes for an object
    b"\x90": lambda m: m.pass_over(m.to_mark()),  # ADDITEMS: for a set
    b"\x8f": _push(INERT),  # EMPTY_SET
    b"\x91": lambda m: m.unknown(m.to_mark()),  # FROZENSET
    b"\x82": lambda m: m.unknown(m.take(1)),  # EXT1, EXT2, EXT4: a name by its number
    b"\x83": lambda m: m.unknown(m.take(2)),
    b"\x84": lambda m: m.unknown(m.take(4)),
}

_VALUES: dict[bytes, _Step] = {
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b")": _push(()),
    b"I": lambda m: m.written_number(int),
    b"L": lambda m: m.written_number(int),
    b"F": lambda m: m.written_number(float),
    b"J": lambda m: m.stack.append(m.number("<i")),
    b"K": lambda m: m.stack.append(m.number("<B")),
    b"M": lambda m: m.stack.append(m.number("<H")),
    b"G": lambda m: m.stack.append(m.number(">d")),
    b"\x8a": lambda m: m.whole("<B"),
    b"\x8b": lambda m: m.whole("<i"),
    b"U": lambda m: m.text("<B"),
    b"T": lambda m: m.text("<i"),
    b"\x8c": lambda m: m.text("<B"),
    b"X": lambda m: m.text("<I"),
    b"\x8d": lambda m: m.text("<Q"),
    b"C": lambda m: m.data("<B"),
    b"B": lambda m: m.data("<I"),
    b"\x8e": lambda m: m.data("<Q"),
    b"\x96": lambda m: m.data("<Q"),
    b"S": lambda m: m.unknown(m.line()),  # texts of protocol 0, which torch does not write
    b"V": lambda m: m.unknown(m.line()),
}

_MACHINERY: dict[bytes, _Step] = {
    b"]": lambda m: m.stack.append([]),
    b"}": lambda m: m.stack.append({}),
    b"(": _Machine.mark,
    b"0": _Machine.drop,
    b"1": _Machine.to_mark,
    b"2": lambda m: m.stack.append(m.stack[-1]),
    b"\x85": lambda m: m.wrap(1),
    b"\x86": lambda m: m.wrap(2),
    b"\x87": lambda m: m.wrap(3),
    b"t": lambda m: m.push_marked(tuple),
    b"l": lambda m: m.push_marked(list),
    b"d": _Machine.mapping,
    b"a": lambda m: m.add([m.stack.pop()]),
    b"e": lambda m: m.add(m.to_mark()),
    b"s": lambda m: m.set([m.stack.pop(), m.stack.pop()][::-1]),
    b"u": lambda m: m.set(m.to_mark()),
    b"c": _Machine.name,
    b"\x93": _Machine.name_from_stack,
    b"R": _Machine.call,
    b"\x81": _Machine.call,  # NEWOBJ
    b"\x92": _Machine.call_with_options,
    b"o": _Machine.call_marked,
    b"i": _Machine.call_named,
    b"P": lambda m: m.reference(m.line()),
    b"Q": lambda m: m.reference(m.stack.pop()),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"p": lambda m: m.put(_line_as_index(m)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"g": lambda m: m.get(_line_as_index(m)),
}

_STEPS = _OBJECTS | _VALUES | _MACHINERY
