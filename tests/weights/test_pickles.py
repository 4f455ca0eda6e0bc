"""Pickles made to harm leave no trace in the process that reads them, and what torch has ever written is read bit for bit."""

import argparse
import io
import json
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from enum import Enum
from pathlib import Path

import numpy
import pytest
import torch

from memo_modules.audio.emotion2vec import load_emotion2vec
from memo_modules.errors import CheckpointError
from memo_modules.weights.checkpoints import read_weights
from memo_modules.weights.pickles import INERT, read_pickle
from tools.fuzzing.opcodes import NAMES, changed, named, pickle_of, program, text, with_pickle

ROOT = Path(__file__).resolve().parents[2]


def archive(held: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(held, buffer, **options)
    return buffer.getvalue()


WEIGHTS = {"a": torch.arange(4.0), "b": torch.ones(3, 2).half()}
PLAIN = archive(WEIGHTS)


# Programs that a pickle can be made of


def calls() -> dict[str, bytes]:
    """Each of the names called in each of the ways that a pickle has, with a text that would leave a file."""
    argument = text(b"touch CANARY")
    programs = {}
    for module, name in NAMES:
        function = named(module, name)
        inst = b"i" + module.encode() + b"\n" + name.encode() + b"\n"
        stacked = text(module.encode()) + text(name.encode()) + b"\x93"
        for way, call in {
            "REDUCE": function + argument + b"\x85R",
            "STACK_GLOBAL": stacked + argument + b"\x85R",
            "NEWOBJ": function + argument + b"\x85\x81",
            "NEWOBJ_EX": function + argument + b"\x85}\x92",
            "OBJ": b"(" + function + argument + b"o",
            "INST": b"(" + argument + inst,
            "BUILD": function + b"N}" + text(b"__defaults__") + b"K\x07\x85s\x86b",
            "BUILD a mapping": function + b"}" + text(b"__code__") + b"Nsb",
            "SETITEM": function + text(b"__doc__") + b"Ns",
            "APPEND": function + b"Na",
            "PERSID": function + b"Q",
        }.items():
            programs[f"{way} {module}.{name}"] = call
    return programs


def tensor(offset: bytes = b"K\x00", size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", **storage: bytes) -> bytes:
    """The steps that rebuild a tensor on storage 0 of PLAIN, or on another."""
    parts = {"kind": named("torch", "FloatStorage"), "key": text(b"0"), "place": text(b"cpu"), "count": b"K\x04"} | storage
    reference = b"(" + text(b"storage") + b"".join(parts.values()) + b"tQ"
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + reference + offset + size + stride + b"\x89N" + b"tR"


def whole(number: int) -> bytes:
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)


def in_model(steps: bytes) -> bytes:
    return b"}" + text(b"model") + b"}" + text(b"a") + steps + b"ss"


BAD_TENSORS = {
    "negative offset": tensor(offset=whole(-1)),
    "offset beyond the end": tensor(offset=b"K\x01"),
    "huge offset": tensor(offset=whole(2**62)),
    "offset of a thousand bits": tensor(offset=b"\x8a\x80" + b"\x7f" * 128),
    "offset that is a truth": tensor(offset=b"\x88"),
    "offset that is a text": tensor(offset=text(b"0")),
    "negative size": tensor(size=whole(-4) + b"\x85"),
    "size of terabytes": tensor(size=whole(2**40) + b"\x85", stride=b"K\x00\x85"),
    "sizes whose product is beyond 64 bits": tensor(size=whole(2**40) + b"\x85" + b"0(" + whole(2**40) * 3 + b"t", stride=b"(K\x00K\x00K\x00t"),
    "one number a million times": tensor(size=whole(2**20) + b"\x85", stride=b"K\x00\x85"),
    "negative stride": tensor(stride=whole(-1) + b"\x85"),
    "stride beyond the end": tensor(stride=b"K\x02\x85"),
    "stride beyond 64 bits": tensor(stride=whole(2**70) + b"\x85"),
    "fewer strides": tensor(stride=b")"),
    "size that is no tuple": tensor(size=b"K\x04"),
    "a thousand dimensions": tensor(size=b"(" + b"K\x01" * 1000 + b"t", stride=b"(" + b"K\x01" * 1000 + b"t"),
    "no storage": tensor(key=text(b"9")),
    "a storage by its place": tensor(key=text(b"../data/0")),
    "a storage by number": tensor(key=b"K\x00"),
    "a larger storage": tensor(count=b"M\x00\x10"),
    "a smaller storage": tensor(count=b"K\x02", size=b"K\x02\x85"),
    "negative storage": tensor(count=whole(-4)),
    "a storage of doubles": tensor(kind=named("torch", "DoubleStorage")),
    "a storage of no type": tensor(kind=named("torch", "NoStorage")),
    "a storage of another module": tensor(kind=named("os", "FloatStorage")),
    "a storage that is a list": named("torch._utils", "_rebuild_tensor_v2") + b"(]K\x00K\x04\x85K\x01\x85\x89NtR",
    "no arguments": named("torch._utils", "_rebuild_tensor_v2") + b")R",
    "ten parameters around one another": named("torch._utils", "_rebuild_parameter") * 10 + tensor() + b"\x89N\x87R" * 10,
    "numbers that count negated": named("torch._utils", "_rebuild_tensor_v2") + tensor()[len(named("torch._utils", "_rebuild_tensor_v2")) : -2]
    + b"}" + text(b"neg") + b"\x88stR",
}  # fmt: skip

SHAPELESS = {
    "arguments in a list": in_model(named("torch._utils", "_rebuild_tensor_v2") + b"]R"),
    "a text for a tensor": in_model(text(b"x")),
    "an object for a tensor": in_model(named("os", "getcwd") + b")R"),
    "numbers for names": b"}K\x01" + tensor() + b"s",
    "tensors for names": b"}" + tensor() + tensor() + b"s",
    "texts that are none": b"}X\x02\x00\x00\x00\xff\xfe" + tensor() + b"s",
    "a name for the header": b"}" + text(b"__metadata__") + tensor() + b"s",
    "mappings for names": b"}}" + tensor() + b"s",
    "a deep tuple for a name": b"}" + b")" + b"\x85" * 100_000 + tensor() + b"s",
    "a tensor alone": tensor(),
    "a list": b"]" + tensor() + b"a",
}

MACHINE = {
    "memo at 2^28": b"Nr\xff\xff\xff\x0f",
    "memo at 2^32 - 1": b"Nr\xff\xff\xff\xff",
    "memo by a text of 2^28": b"Np268435455\n",
    "memo by a text of a thousand digits": b"Np" + b"9" * 1000 + b"\n",
    "memo that is negative": b"Np-1\n",
    "a missing memo": b"h\x07",
    "a missing memo by a text": b"g7\n",
    "memo of nothing": b"q\x00",
    "a frame of exabytes": b"\x95" + b"\xff" * 8 + b"N",
    "bytes of exabytes": b"\x8e" + b"\xff" * 8,
    "bytes of 2^63": b"\x8e" + struct.pack("<Q", 2**63),
    "bytes of 4 GB": b"B" + b"\xff" * 4,
    "a bytearray of exabytes": b"\x96" + b"\xff" * 8,
    "a text of exabytes": b"\x8d" + b"\xff" * 8,
    "a text of 4 GB": b"X" + b"\xff" * 4,
    "a text of negative length": b"T" + b"\xff" * 4,
    "a number of 2 GB": b"\x8b\xff\xff\xff\x7f",
    "a number of negative length": b"\x8b\xff\xff\xff\xff",
    "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "a number in words": b"Ix\n",
    "a float in words": b"Fx\n",
    "another protocol": b"\x80\xff" + b"N",
    "an instruction of no protocol": b"\xfe",
    "an extension": b"\x82\x01)R",
    "an extension by four bytes": b"\x84\xff\xff\xff\x7f)R",
    "a buffer from elsewhere": b"\x97\x98",
    "a reference by a text": b"P../../etc/passwd\n",
    "a reference that is a number": b"K\x01Q",
    "a reference that is empty": b")Q",
    "a reference to a module": b"(" + text(b"module") + named("os", "x") + text(b"/etc/passwd") + text(b"source") + b"tQ",
    "a reference of another kind": b"(" + text(b"code") + text(b"x") + b"tQ",
    "a reference of two parts": b"(" + text(b"storage") + named("torch", "FloatStorage") + b"tQ",
    "a mark alone": b"(",
    "tuple without a mark": b"t",
    "mapping without a mark": b"u",
    "a mapping of one": b"(Nd",
    "pop of nothing": b"00000",
    "pop of marks": b"((((00001",
    "a copy of nothing": b"2",
    "items for a tuple": b")Na",
    "names in a tuple": b")" + text(b"x") + b"Ns",
    "names in a list": b"](" + text(b"x") + b"Nu",
    "a list of itself": b"]q\x002h\x00a",
    "a mapping of itself": b"}q\x00" + text(b"x") + b"h\x00s",
    "a call of a number": b"K\x01)R",
    "a call of a tensor": tensor() + b")R",
    "attributes of a tensor": tensor() + b"}" + text(b"data") + b"Nsb",
    "attributes of a storage": named("torch", "UntypedStorage") + b"N}" + text(b"__len__") + b"K\x07s\x86b",
    "attributes of a type": named("torch._utils", "_rebuild_tensor_v2") + b"N}" + text(b"__defaults__") + b"K\x07\x85s\x86b",
    "names that are no texts": b"NN\x93",
    "a name without an end": b"c" + b"x" * 100_000,
    "a set of what cannot be in one": b"\x8f(]}\x90",
    "lists in one another": b"]" * 100_000 + b"a" * 99_999,
    "tuples around one another": b")" + b"\x85" * 100_000,
    "marks": b"(" * 100_000,
    "a million lists": b"]\x94" * 999_000,
    "four million steps": b"N0" * 2_000_000,
    "lists of lists of lists": b"]q\x00" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(200)) + b"0" * 200,
    "mappings of pairs, again and again": b"]q\x00(" + (text(b"x") + b"N\x86") * 50_000 + b"e0" + named("collections", "OrderedDict") + b"q\x01"
    + b"h\x01h\x00\x85R0" * 60_000,
    "a name of names": named("collections", "OrderedDict.__init__.__globals__") + b")R",
}  # fmt: skip


def hostile() -> dict[str, bytes]:
    """Pickles by name: each of the programs in front of a mapping with a good tensor, in its place, or as the whole."""
    front = calls() | MACHINE
    inside = {name: in_model(steps) for name, steps in (BAD_TENSORS | {f"value: {name}": steps for name, steps in calls().items()}).items()}
    return {name: steps + b"0" + in_model(tensor()) for name, steps in front.items()} | inside | SHAPELESS


def read_in_child(good: Path, files: list[Path]) -> list[dict]:
    run = subprocess.run(
        [sys.executable, ROOT / "tests/helpers/pickle_child.py", ROOT, good, *files], capture_output=True, text=True, check=False, timeout=500
    )
    results = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(results) == len(files) and run.returncode == 0, f"file {len(results)}: {run.stderr[-2000:]}"
    return results


linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does it")


@linux
def test_hostile_pickles_leave_no_trace(tmp_path):
    (tmp_path / "good.pt").write_bytes(PLAIN)
    programs = hostile()
    assert len(programs) > 500
    files = []
    for i, steps in enumerate(programs.values()):
        files.append(tmp_path / f"{i}.pt")
        files[-1].write_bytes(with_pickle(PLAIN, b"\x80\x02" + steps + b"."))
    kept = {path.name for path in tmp_path.iterdir()}
    for name, result in zip(programs, read_in_child(tmp_path / "good.pt", files), strict=True):
        assert result["outcome"] == "tensors" or result["outcome"].startswith("refused: "), (name, result)
        assert not result["effects"] and result["megabytes"] < 200 and result["seconds"] < 60, (name, result)
        assert len(result["outcome"]) < 1000
        if name in BAD_TENSORS:
            assert "'a' is not a plain tensor that the file holds whole" in result["outcome"], (name, result)
        if name in SHAPELESS:
            assert "holds no tensors by name" in result["outcome"], (name, result)
    assert {path.name for path in tmp_path.iterdir()} == kept


@linux
def test_a_program_in_torchscript_is_not_run(tmp_path, monkeypatch):
    """It wrote a file of its choice when it was converted."""
    victim, path = tmp_path / "written by the model", tmp_path / "model.pt"
    path.write_bytes(torchscript(tmp_path, monkeypatch, victim))
    (tmp_path / "good.pt").write_bytes(PLAIN)
    [result] = read_in_child(tmp_path / "good.pt", [path])
    assert "program in TorchScript" in result["outcome"] and not result["effects"]
    run = subprocess.run([sys.executable, ROOT / "scripts/convert.py", path], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and f"{path} cannot be read as model weights (it is a program in TorchScript" in run.stderr
    assert not victim.exists() and not path.with_suffix(".safetensors").exists()


def torchscript(folder: Path, monkeypatch, victim: Path) -> bytes:
    """A module whose __setstate__ writes to ``victim``, stored without compression."""
    (folder / "writes.py").write_text(f"""
import torch
class Writes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.zeros(3)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x
    @torch.jit.export
    def __getstate__(self):
        return (self.a, self.training)
    @torch.jit.export
    def __setstate__(self, s: tuple[torch.Tensor, bool]):
        self.a = s[0]
        self.training = s[1]
        t = torch.from_file("{victim}", True, 64, dtype=torch.uint8)
        t.fill_(65)
        self.a = t
""")
    monkeypatch.syspath_prepend(str(folder))
    import warnings

    import writes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(writes.Writes()), buffer)
        buffer.seek(0)
        torch.jit.load(buffer)
    assert victim.exists()  # so it does write
    victim.unlink()
    target = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(target, "w") as stored:
        for entry in source.infolist():
            stored.writestr(entry.filename, source.read(entry))
    return target.getvalue()


def test_a_thousand_programs_by_chance():
    """Refused with ValueError, or plain data; the longer round is in tools/fuzz.py."""
    valid, kinds = pickle_of(archive({"model": WEIGHTS, "args": argparse.Namespace(a=1)})), set()
    for seed in range(3000):
        draw = random.Random(seed)
        content = program(draw) if seed % 3 == 0 else changed(valid, draw)
        try:
            held = read_pickle(io.BytesIO(content), len(content), lambda name: INERT)
            kinds.add(type(held).__name__)
        except ValueError as error:
            kinds.add("refused")
            assert 0 < len(str(error)) < 200
    assert kinds >= {"refused", "dict", "Inert"}


# Archives


def rewritten(content: bytes, change) -> bytes:
    """The archive with the bytes of its table of contents, or others, changed."""
    data = bytearray(content)
    change(data)
    return bytes(data)


def entry(data: bytearray, name: bytes = b"data/0", mark: bytes = b"PK\x01\x02", shift: int = 46) -> int:
    """Where the entry of a member, or its own header (shift 30), begins."""
    at = -1
    while (at := data.find(name, at + 1)) >= 0:
        if data[at - shift - len(b"archive/") :][:4] == mark:
            return at - shift - len(b"archive/")
    raise AssertionError(name)


def put(at: int, form: str, value: int, **where):
    def change(data: bytearray) -> None:
        struct.pack_into(form, data, entry(data, **where) + at, value)

    return change


def rezipped(*more: tuple[str, bytes], leave: str = "none", **options) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(PLAIN)) as source, zipfile.ZipFile(target, "w", **options) as archive:
        for info in source.infolist():
            if not info.filename.endswith(leave):
                archive.writestr(info.filename, source.read(info))
        for name, content in more:
            archive.writestr(name, content)
    return target.getvalue()


def twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        return rezipped(("archive/data/0", b"\0" * 16))


def sized(size: int):
    return lambda data: (put(20, "<I", size)(data), put(24, "<I", size)(data))


LOCAL = {"mark": b"PK\x03\x04", "shift": 30}
ARCHIVES = {
    "marked as TorchScript": (lambda: rezipped(("archive/constants.pkl", b"\x80\x02N.")), "TorchScript"),
    "marked as TorchScript elsewhere": (lambda: rezipped(("x/constants.pkl", b"\x80\x02N.")), "TorchScript"),
    "with code": (lambda: rezipped(("archive/code/__torch__.py", b"")), "TorchScript"),
    "compressed": (lambda: rezipped(compression=zipfile.ZIP_DEFLATED), "compressed"),
    "one member compressed": (lambda: rewritten(PLAIN, put(10, "<H", 8)), "compressed"),
    "its own header says compressed": (lambda: rewritten(PLAIN, put(8, "<H", 8, **LOCAL)), "two headers that differ"),
    "a name twice": (twice, "'archive/data/0' twice"),
    "two pickles": (lambda: rezipped(("other/data.pkl", b"\x80\x02}.")), "torch.save did not write"),
    "no pickle": (lambda: rezipped(leave="data.pkl"), "torch.save did not write"),
    "no numbers": (lambda: rezipped(leave="data/0"), "'a' is not a plain tensor .*not in the file"),
    "encrypted": (lambda: rewritten(PLAIN, put(8, "<H", 1)), "encrypted"),
    "a link": (lambda: rewritten(PLAIN, lambda data: (put(4, "<H", 0x0314)(data), put(38, "<I", 0o120777 << 16)(data))), "a link"),
    "two sizes": (lambda: rewritten(PLAIN, put(20, "<I", 17)), "two sizes"),
    "longer than its numbers": (lambda: rewritten(PLAIN, sized(20)), "'a' is not a plain tensor|differ"),
    "beyond the file": (lambda: rewritten(PLAIN, sized(10**6)), "outside it|differ"),
    "header beyond the file": (lambda: rewritten(PLAIN, put(42, "<I", 10**6)), "outside it"),
    "header of another": (lambda: rewritten(PLAIN, put(42, "<I", 0)), "two headers that differ"),
    "another name in its own header": (lambda: rewritten(PLAIN, lambda data: data.__setitem__(entry(data, **LOCAL) + 30, 65)), "differ"),
    "one in another": (lambda: inside(), "lie in one another"),
    "cut off": (lambda: PLAIN[:-30], "cut off"),
    "something after it": (lambda: PLAIN + b"x" * 30, "cut off"),
    "something before it": (lambda: b"PK\x03\x04" + PLAIN, "damaged"),
    "of a machine with another order of bytes": (lambda: rezipped(("archive/byteorder", b"big"), leave="byteorder"), "order of bytes"),
    "a million members": (lambda: rewritten(rezipped(), many), "damaged|members"),
}  # fmt: skip


def inside() -> bytes:
    """data/1 lies in data/0, with a header of its own that is right."""
    content = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 3, 3, len("archive/data/1"), 0) + b"archive/data/1abc"
    data = bytearray(rezipped(("archive/data/9", content), ("archive/data/8", b"abc")))
    at, size = data.find(content), len("archive/data/8")
    last = data.rfind(b"archive/data/8") - 46
    data[last + 46 : last + 46 + size] = b"archive/data/1"
    one = entry(data, b"data/1")
    data[one + 46 : one + 46 + size] = b"archive/data/8"  # what was data/1 is called otherwise
    struct.pack_into("<I", data, last + 42, at)
    header = data.find(b"archive/data/1")  # its own header too
    data[header : header + size] = b"archive/data/8"
    return bytes(data)


def many(data: bytearray) -> None:
    struct.pack_into("<2H", data, len(data) - 14, 0xFFFE, 0xFFFE)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_torch_does_not_write(tmp_path, name):
    make, sentence = ARCHIVES[name]
    (tmp_path / "model.bin").write_bytes(make())
    with pytest.raises(CheckpointError, match=f"model.bin.*({sentence})"):
        read_weights(tmp_path / "model.bin")


def test_thousands_of_names_for_the_same_numbers(tmp_path):
    """Each would be written anew when they are converted: gigabytes from kilobytes."""
    torch.save({str(i): WEIGHTS["a"].expand(100, 4) for i in range(2000)}, tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match="its tensors are 8 times as large as the file"):
        read_weights(tmp_path / "model.bin")


# What torch has ever written


class Mode(Enum):
    LARGE = "large"


class Config(dict):
    """Of a package that is not here."""


def checkpoint() -> dict:
    """As FunASR and fairseq leave one after training."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    config = Config(lr=1e-3)
    config.extra = [1]
    return {
        "epoch": 7, "model": module.state_dict(), "optimizer": optimizer.state_dict(), "args": argparse.Namespace(lr=1e-3, layers=[1, (2, 3)]),
        "cfg": config, "mode": Mode.LARGE, "best": numpy.float64(0.5), "history": numpy.arange(5), "names": {"a", "b"}, "raw": b"\x00\xff",
        "rng": torch.get_rng_state(), "size": torch.Size([1, 2]), "dtype": torch.float16, "counts": defaultdict(int, {"x": 1}), 3: None,
        "text": "é" * 5000, "big": 2**200, "infinite": float("inf"), "frozen": frozenset([1]), "complex": 1j, "range": slice(1, 2), "path": Path("x"),
        "scheduler": {"state": [OrderedDict(a=1), None, True]}, "device": torch.device("cpu"), "module": module, "bytes": bytearray(b"x"),
    }  # fmt: skip


def every_dtype() -> dict[str, torch.Tensor]:
    names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 uint16 uint32 float8_e4m3fn float8_e5m2"
    dtypes = [getattr(torch, name) for name in names.split() if hasattr(torch, name)]
    torch.manual_seed(0)
    return {str(dtype): torch.randint(0, 2, (3, 5)).to(dtype) for dtype in dtypes}


def views() -> dict[str, torch.Tensor]:
    whole, marked = torch.randn(6, 8), torch.randn(3)
    marked.origin = "here"
    return {
        "whole": whole, "turned": whole.T, "part": whole[1:5, ::2], "last": whole[5, 7], "row": whole[2].expand(3, 8), "none": whole[:0],
        "parameter": torch.nn.Parameter(torch.randn(4)), "frozen": torch.nn.Parameter(torch.randn(2), requires_grad=False), "marked": marked,
        "number": torch.tensor(3.5), "buffer": torch.nn.Buffer(torch.ones(2)) if hasattr(torch.nn, "Buffer") else torch.ones(2),
    }  # fmt: skip


def same_bits(left: dict, right: dict) -> bool:
    def bits(tensor: torch.Tensor) -> tuple:
        return tensor.dtype, tensor.shape, tensor.stride(), tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()

    return left.keys() == right.keys() and all(bits(left[key]) == bits(right[key]) for key in left)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("make", [checkpoint, every_dtype, views, lambda: {"state_dict": views()}, lambda: OrderedDict(checkpoint()["model"])])
def test_what_torch_writes_is_read_bit_for_bit(tmp_path, make, zipped, protocol):
    path, held = tmp_path / "model.pt", make()
    if make is every_dtype and not zipped:  # torch itself cannot read the newer ones back
        held = {key: value for key, value in held.items() if "float8" not in key and "uint16" not in key and "uint32" not in key}
    torch.save(held, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=False)
    expected = expected.get("model", expected.get("state_dict", expected))
    found = read_weights(path)
    assert same_bits(found, dict(expected))
    assert not any(tensor.requires_grad for tensor in found.values())
    described = read_weights(path, header_only=True)
    assert {key: (value.shape, value.dtype) for key, value in described.items()} == {key: (value.shape, value.dtype) for key, value in found.items()}


def test_an_archive_from_before_the_order_of_bytes_was_written(tmp_path):
    for leave in ("byteorder", ".format_version"):
        (tmp_path / "model.bin").write_bytes(rezipped(leave=leave))
        assert same_bits(read_weights(tmp_path / "model.bin"), WEIGHTS)


def test_the_file_is_mapped_and_never_written(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(PLAIN)
    read_weights(path)["a"].fill_(7)
    assert path.read_bytes() == PLAIN
    torch.save({"a": torch.zeros(2**24)}, path)
    status = Path("/proc/self/statm")
    if status.exists():
        before = int(status.read_text().split()[1])
        assert read_weights(path)["a"].shape == (2**24,) and (int(status.read_text().split()[1]) - before) * 4096 < 2**24


def tar_file(tensors: dict[str, torch.Tensor]) -> bytes:
    """As torch wrote it before 0.1.10: storages, tensors and what refers to them by number, in a tar archive."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, held):
            return str(ids[id(held)]) if id(held) in ids else None

    ids = {id(tensor): 94_000_000_000_000 + 16 * i for i, tensor in enumerate(tensors.values())}
    storages, listed = io.BytesIO(), io.BytesIO()
    pickle.dump(len(tensors), storages, protocol=2)
    pickle.dump(len(tensors), listed, protocol=2)
    for tensor in tensors.values():
        storage, kind = tensor.untyped_storage(), torch.LongStorage if tensor.dtype == torch.int64 else torch.FloatStorage
        pickle.dump((ids[id(tensor)] + 1, "cpu", kind), storages, protocol=2)
        storages.write(struct.pack("<q", len(storage) // tensor.itemsize) + bytes(storage.tolist()))
        pickle.dump((ids[id(tensor)], ids[id(tensor)] + 2, torch.FloatTensor), listed, protocol=2)
        shape = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
        listed.write(struct.pack(f"<ii{len(shape)}q", tensor.ndim, 0, *shape))
    views = [
        (number + 2, number + 1, 0, len(tensor.untyped_storage()) // tensor.itemsize)
        for number, tensor in zip(ids.values(), tensors.values(), strict=True)
    ]
    pickle.dump(views, storages, protocol=2)
    held = io.BytesIO()
    Pickler(held, protocol=2).dump(OrderedDict(tensors))
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, part in (("sys_info", io.BytesIO(pickle.dumps({}))), ("pickle", held), ("tensors", listed), ("storages", storages)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(part.getvalue()), 1480000000.25
            part.seek(0)
            archive.addfile(info, part)
    return target.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_the_oldest_format_is_read_bit_for_bit(tmp_path):
    whole = torch.randn(4, 6)
    path = tmp_path / "model.bin"
    path.write_bytes(tar_file({"whole": whole, "turned": torch.randn(3, 2).T, "part": torch.randn(5, 4)[1:3, 2:], "count": torch.arange(3)}))
    expected = torch.load(path, weights_only=False)
    assert expected["whole"].equal(whole) and same_bits(read_weights(path), dict(expected))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("written", [False, True])
def test_older_files_that_are_damaged_anywhere(tmp_path, written):
    """A byte changed at each of many places, and the end cut off there."""
    content = tar_file({"a": torch.randn(4, 6)}) if written else archive({"a": torch.randn(4)}, _use_new_zipfile_serialization=False)
    path, draw = tmp_path / "model.bin", random.Random(0)
    path.write_bytes(content)
    assert read_weights(path)
    for at in range(0, len(content), max(1, len(content) // 250)):
        for damaged in (content[:at], content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]):
            path.write_bytes(damaged)
            try:
                for tensor in read_weights(path).values():
                    tensor.clone()
            except CheckpointError as error:
                assert str(path) in str(error)


def test_the_published_emotion_model_as_its_training_left_it(tiny_models, tmp_path):
    source = tiny_models / "memo/emotion2vec_plus_large/model.pt"
    weights = torch.load(source, weights_only=True)["model"]
    assert same_bits(read_weights(source), weights)
    left = checkpoint() | {"model": weights}
    torch.save(left, tmp_path / "model.pt")
    assert same_bits(load_emotion2vec(tmp_path / "model.pt").state_dict(), load_emotion2vec(source).state_dict())
