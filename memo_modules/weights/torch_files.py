"""Files as torch.save writes them, in its format of today (a zip archive) and its two earlier ones, read without torch.load.

torch.load runs TorchScript that an archive may hold, and gives pickles the functions of the process; see ``pickles`` for
what is done here instead. Tensors are made by this module from numbers that were checked, over the file mapped into memory.
"""

import math
import mmap
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..files.regular_files import open_regular
from .archives import Span, tar_members, zip_members
from .pickles import INERT, Called, Named, makes_tensor, read_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}

_NEWER_TYPES = {
    name: getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    if hasattr(torch, name)
}
"""Their tensors name them; the storage is one of bytes."""

_TENSORS = {"_rebuild_tensor": (4,), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}
"""Functions that make a plain tensor: the numbers of arguments they may have."""

_AROUND = ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter")

_MOST_AROUND, _MOST_DIMENSIONS = 4, 64

_ALIGNED = 64
"""Bytes at whose multiples torch puts storages, so that they can be used where they lie."""


@dataclass(frozen=True, slots=True)
class Storage:
    """``count`` numbers from ``first`` on of those that lie, ``whole`` of them, under ``key``."""

    key: str
    dtype: torch.dtype
    whole: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A tensor that is yet to be made; offset and strides count from the beginning of the storage, in ``dtype``."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class TorchFile:
    """held: what its pickle says, see ``pickles.read_pickle``: numbers, texts, lists, tuples, mappings of them, and Called
    for each tensor. spans: storage key to its bytes in the file."""

    held: Any
    spans: dict[str, Span]
    length: int
    mapped: torch.UntypedStorage
    made: dict[str, torch.UntypedStorage] = field(default_factory=dict)

    def plan(self, called: Called) -> Plan:
        """What a tensor will be. Raises ValueError when the file does not hold it whole, or it is no plain one."""
        plan = _plan(called)
        span = self.spans.get(plan.storage.key)
        whole = plan.storage.whole * plan.storage.dtype.itemsize
        room = plan.storage.count * plan.storage.dtype.itemsize
        first = plan.storage.first * plan.storage.dtype.itemsize
        count = math.prod(plan.size)
        reach = plan.offset + sum((size - 1) * stride for size, stride in zip(plan.size, plan.stride, strict=True)) + 1 if count else 0
        if span is None or span.size != whole or span.end > self.length:
            raise ValueError("its numbers are not in the file")
        if first % plan.dtype.itemsize or plan.storage.first + plan.storage.count > plan.storage.whole or reach * plan.dtype.itemsize > room:
            raise ValueError("it goes beyond its numbers")
        if count * plan.dtype.itemsize > self.length:
            raise ValueError("it is larger than the file")
        return plan

    def tensor(self, called: Called) -> Tensor:
        """The tensor, over the file. Raises as ``plan``."""
        plan = self.plan(called)
        first = plan.storage.first * plan.storage.dtype.itemsize
        offset = plan.offset + first // plan.dtype.itemsize
        try:
            return torch.empty(0, dtype=plan.dtype, device="cpu").set_(self._bytes(plan.storage.key), offset, plan.size, plan.stride)
        except (RuntimeError, OverflowError) as error:
            raise ValueError("its shape is none") from error

    def _bytes(self, key: str) -> torch.UntypedStorage:
        if key not in self.made:
            span = self.spans[key]
            part = self.mapped[span.start : span.end]
            self.made[key] = part.clone() if span.start % _ALIGNED else part
        return self.made[key]


def read_torch_file(path: Path) -> TorchFile:
    """What is in a file that torch.save wrote. Raises OSError when there is no file, and ValueError saying what is wrong when
    it is none of torch's, of TorchScript, damaged, or from a machine with another order of bytes."""
    with open_regular(path) as file:
        length = os.fstat(file.fileno()).st_size
        start = file.read(512)
        if start.startswith(b"PK\x03\x04"):
            held, spans = _read_zip(file, length)
        elif start[257:262] == b"ustar":
            held, spans = _read_tar(file, length)
        else:
            file.seek(0)
            held, spans = _read_stream(file, length)
        # Copied when written to: what is done with the weights never reaches the file.
        mapped = torch.frombuffer(mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY), dtype=torch.uint8)
    return TorchFile(held, spans, length, mapped.untyped_storage())


def _read_zip(file: BinaryIO, length: int) -> tuple[Any, dict[str, Span]]:
    members = zip_members(file, length)
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    prefix = pickles[0].removesuffix("data.pkl") if pickles else ""
    own = {name.removeprefix(prefix): span for name, span in members.items() if name.startswith(prefix)}
    if any(name.rpartition("/")[2] == "constants.pkl" for name in members) or any(name.startswith("code/") for name in own):
        raise ValueError("it is a program in TorchScript, which is not run; save its weights alone")
    if len(pickles) != 1:
        raise ValueError("an archive that torch.save did not write")
    order = own.get("byteorder")
    if order is not None:
        file.seek(order.start)
        if file.read(min(order.size, 16)) != sys.byteorder.encode():
            raise ValueError("its numbers are written in another order of bytes than this machine's; save it anew on one like this")
    file.seek(own["data.pkl"].start)
    held = read_pickle(file, own["data.pkl"].end, _storage_of)
    return held, {name.removeprefix("data/"): span for name, span in own.items() if name.startswith("data/")}


def _storage_of(name: Any) -> Any:
    """What a reference in a zip archive or a stream stands for."""
    if type(name) is not tuple or not name:
        raise ValueError("it refers to something as torch does not")
    if name[0] == "module" and len(name) == 4:  # a class and its source, which nothing here reads
        return name[1]
    if name[0] != "storage" or len(name) not in (5, 6):
        raise ValueError("it refers to something as torch does not")
    _, kind, key, _, whole = name[:5]
    dtype = _storage_type(kind)
    if dtype is None or type(key) is not str or not _is_count(whole):
        return INERT
    view = name[5] if len(name) == 6 else None
    if view is None:
        return Storage(key, dtype, whole, 0, whole)
    if type(view) is tuple and len(view) == 3 and _is_count(view[1]) and _is_count(view[2]):
        return Storage(key, dtype, whole, view[1], view[2])
    return INERT


def _storage_type(kind: Any) -> torch.dtype | None:
    return _STORAGES.get(kind.name) if type(kind) is Named and kind.module.partition(".")[0] == "torch" else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _count(value: Any, what: str) -> int:
    if not _is_count(value):
        raise ValueError(f"its {what} is no number")
    return value


def _read_stream(file: BinaryIO, length: int) -> tuple[Any, dict[str, Span]]:
    """torch's format before 1.6: pickles one after the other, and after them the numbers."""
    if read_pickle(file, length) != _MAGIC or read_pickle(file, length) != _PROTOCOL:
        raise ValueError("torch.save did not write it")
    read_pickle(file, length)  # about the machine
    itemsizes: dict[str, int] = {}

    def refer(name: Any) -> Any:
        storage = _storage_of(name)
        if type(storage) is Storage:
            itemsizes.setdefault(storage.key, storage.dtype.itemsize)
        return storage

    held = read_pickle(file, length, refer)
    keys = read_pickle(file, length)
    spans: dict[str, Span] = {}
    for key in keys if type(keys) is list else ():
        if type(key) is not str or key not in itemsizes or key in spans:
            raise ValueError("its list of tensors is damaged")
        spans[key] = _numbers(file, length, itemsizes[key])
    return held, spans


def _numbers(file: BinaryIO, length: int, itemsize: int) -> Span:
    """Where the numbers lie that begin here with how many they are; the file then stands after them."""
    span = Span(file.tell() + 8, _integers(file, 1)[0] * itemsize)
    if span.size < 0 or span.end > length:
        raise ValueError("it ends in the middle of its numbers")
    file.seek(span.end)
    return span


def _integers(file: BinaryIO, count: int) -> tuple[int, ...]:
    content = file.read(8 * count)
    if len(content) != 8 * count:
        raise ValueError("it ends in the middle of its numbers")
    return tuple(int.from_bytes(content[8 * i : 8 * i + 8], "little", signed=True) for i in range(count))


def _read_tar(file: BinaryIO, length: int) -> tuple[Any, dict[str, Span]]:
    """torch's format before 0.1.10: lists of storages and of tensors, and a pickle that refers to them by number."""
    members = tar_members(file, length)
    if not members.keys() >= {"storages", "tensors", "pickle"}:
        raise ValueError("an archive that torch.save did not write")
    storages, spans = _tar_storages(file, members["storages"])
    tensors = _tar_tensors(file, members["tensors"], storages)

    def refer(name: Any) -> Any:
        if type(name) is tuple:
            return name[0] if name else INERT
        key = str(name) if type(name) in (int, str) else ""
        return tensors.get(key) or storages.get(key, INERT)

    file.seek(members["pickle"].start)
    return read_pickle(file, members["pickle"].end, refer), spans


def _tar_storages(file: BinaryIO, span: Span) -> tuple[dict[str, Storage], dict[str, Span]]:
    storages, spans = {}, {}
    file.seek(span.start)
    for _ in range(_count(read_pickle(file, span.end), "number of storages")):
        key, _, kind = _items(read_pickle(file, span.end), 3)
        dtype = _storage_type(kind)
        if dtype is None or key in spans:
            raise ValueError("its list of storages is damaged")
        spans[key] = _numbers(file, span.end, dtype.itemsize)
        whole = spans[key].size // dtype.itemsize
        storages[key] = Storage(key, dtype, whole, 0, whole)
    views = read_pickle(file, span.end)
    for view in views if type(views) is list else ():
        key, root, first, count = _items(view, 4)
        if str(root) not in spans or not _is_count(first) or not _is_count(count):
            raise ValueError("its list of storages is damaged")
        of = storages[str(root)]
        storages[key] = Storage(of.key, of.dtype, of.whole, first, count)
    return storages, spans


def _tar_tensors(file: BinaryIO, span: Span, storages: dict[str, Storage]) -> dict[str, Called]:
    tensors = {}
    file.seek(span.start)
    for _ in range(_count(read_pickle(file, span.end), "number of tensors")):
        key, storage, _ = _items(read_pickle(file, span.end), 3)
        dimensions = int.from_bytes(file.read(8)[:4], "little")
        if dimensions > _MOST_DIMENSIONS or type(storage) not in (int, str):
            raise ValueError("its list of tensors is damaged")
        size, stride = _integers(file, dimensions), _integers(file, dimensions)
        tensors[key] = Called("_rebuild_tensor", (storages.get(str(storage)), *_integers(file, 1), size, stride))
    return tensors


def _items(value: Any, count: int) -> list[Any]:
    """A tuple's items; the first is a key, a number in Python 2, as text."""
    if type(value) is not tuple or len(value) != count or type(value[0]) not in (int, str):
        raise ValueError("its list of tensors is damaged")
    return [str(value[0]), *value[1:]]


def _plan(called: Called) -> Plan:
    """What a pickle says of a tensor. Raises ValueError when that is not a plain one."""
    for _ in range(_MOST_AROUND):
        args = called.args
        if called.function in _AROUND and args and type(args[0]) is Called:
            called = args[0]
        elif called.function == "_rebuild_from_type_v2" and len(args) == 4 and makes_tensor(args[0]) and type(args[2]) is tuple:
            called = Called(args[0].name, args[2])
    args = called.args
    if len(args) not in _TENSORS.get(called.function, ()) or type(args[0]) is not Storage:
        raise ValueError("it is not a plain tensor")
    storage, offset, size, stride = args[:4]
    dtype, more = storage.dtype, args[6:]
    if called.function == "_rebuild_tensor_v3":
        kind, more = args[6], args[7:]
        dtype = _NEWER_TYPES.get(kind.name) if type(kind) is Named and kind.module == "torch" else None
        if dtype is None or storage.dtype != torch.uint8:
            raise ValueError("it is of an unknown type")
    if any(part is not None and (type(part) is not dict or part) for part in more):  # such as: its numbers count negated
        raise ValueError("it is not a plain tensor")
    shape = (size, stride)
    if not _is_count(offset) or not all(type(part) in (tuple, list) and len(part) <= _MOST_DIMENSIONS for part in shape):
        raise ValueError("its shape is none")
    if len(size) != len(stride) or not all(_is_count(number) for part in shape for number in part):
        raise ValueError("its shape is none")
    return Plan(storage, dtype, offset, tuple(size), tuple(stride))
