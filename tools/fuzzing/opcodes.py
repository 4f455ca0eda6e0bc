"""Pickles made of instructions in any order: valid ones with some of theirs changed, and programs drawn from a grammar."""

import io
import pickletools
import random
import struct
import zipfile

from tools.fuzzing.mutations import INTERESTING

NAMES = (
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"), ("torch._tensor", "_rebuild_from_type_v2"), ("torch.nn.parameter", "Parameter"),
    ("torch", "FloatStorage"), ("torch.storage", "UntypedStorage"), ("torch", "float8_e4m3fn"), ("torch", "device"), ("torch", "load"),
    ("torch.jit", "load"), ("torch.hub", "load"), ("torch.serialization", "load"), ("collections", "OrderedDict"), ("collections", "defaultdict"),
    ("builtins", "dict"), ("builtins", "getattr"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "setattr"), ("builtins", "__import__"),
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("operator", "attrgetter"), ("functools", "partial"),
    ("copyreg", "add_extension"), ("copyreg", "_reconstructor"), ("importlib", "import_module"), ("runpy", "run_path"), ("pickle", "loads"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("os", "path.os.system"), ("argparse", "Namespace"), ("sys", "modules"), ("this", "s"),
    ("wave", "open"), ("", ""),
)  # fmt: skip
"""What a hostile pickle names, and what torch's own do."""

_PLAIN = b".N\x88\x89)]}(0102l\x85\x86\x87tdaesuR\x81\x92o\x93Qb\x8f\x90\x91\x94\x97\x98"
_TEXTS = (b"", b"storage", b"cpu", b"0", b"1", b"model", b"weight", b"\xff\xfe", b"module", b"x" * 300)


def named(module: str, name: str) -> bytes:
    """The instruction that names a function."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def text(content: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(content)) + content


def instruction(draw: random.Random) -> bytes:
    """One instruction with an argument that fits it, more or less."""
    kind = draw.random()
    if kind < 0.4:
        return bytes([draw.choice(_PLAIN)])
    if kind < 0.5:
        return named(*draw.choice(NAMES))
    if kind < 0.6:
        return text(draw.choice(_TEXTS))
    number = draw.choice((*INTERESTING, *range(12)))
    size, codes = draw.choice(((1, b"Kqh\x82\x80"), (2, b"M\x83"), (4, b"Jrj\x84"), (8, b"G\x95")))
    if kind < 0.85:
        return bytes([draw.choice(codes)]) + (number % (1 << 8 * size)).to_bytes(size, "little")
    if kind < 0.93:  # a length, and not always as many bytes
        size, codes = draw.choice(((1, b"C\x8cU\x8a"), (4, b"BXT\x8b"), (8, b"\x8e\x8d\x96")))
        length = draw.choice((0, 1, 3, 200, number)) % (1 << 8 * size)
        return bytes([draw.choice(codes)]) + length.to_bytes(size, "little") + draw.randbytes(min(length, 300))
    return draw.choice((b"I%d\n", b"L%dL\n", b"F%d\n", b"g%d\n", b"p%d\n", b"P%d\n", b"S'%d'\n", b"V%d\n", b"i%d\nx\n")) % number


def program(draw: random.Random) -> bytes:
    """A pickle of instructions alone."""
    start = draw.choice((b"", b"\x80\x02", b"\x80\x05"))
    return start + b"".join(instruction(draw) for _ in range(draw.choice((3, 10, 40, 200)))) + b"."


def instructions(content: bytes) -> list[bytes]:
    """A valid pickle in its instructions."""
    places = [at for _, _, at in pickletools.genops(content)]
    return [content[start:end] for start, end in zip(places, [*places[1:], len(content)], strict=True)]


def changed(content: bytes, draw: random.Random) -> bytes:
    """A valid pickle with some of its instructions replaced, removed, moved, repeated or added."""
    steps = instructions(content)
    for _ in range(draw.choice((1, 1, 2, 4, 12))):
        at = draw.randrange(len(steps))
        kind = draw.choice(("replace", "replace", "remove", "add", "add", "move", "repeat", "name"))
        if kind == "replace":
            steps[at] = instruction(draw)
        elif kind == "remove" and len(steps) > 8:
            del steps[at : at + draw.choice((1, 1, 3))]
        elif kind == "add":
            steps[at:at] = [instruction(draw) for _ in range(draw.choice((1, 2, 5)))]
        elif kind == "move":
            steps.insert(draw.randrange(len(steps)), steps[at])
        elif kind == "repeat":
            steps[at:at] = steps[at : at + draw.choice((1, 4, 20))] * draw.choice((1, 3, 100))
        else:  # what is named is another thing
            for i, step in enumerate(steps):
                if step[:1] == b"c" and draw.random() < 0.3:
                    steps[i] = named(*draw.choice(NAMES))
    return b"".join(steps)


def with_pickle(archive: bytes, pickle: bytes) -> bytes:
    """An archive of torch with another pickle in it."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(target, "w") as written:
        for entry in source.infolist():
            written.writestr(entry.filename, pickle if entry.filename.endswith("data.pkl") else source.read(entry))
    return target.getvalue()


def pickle_of(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return source.read(next(name for name in source.namelist() if name.endswith("data.pkl")))


def damaged_opcodes(content: bytes, draw: random.Random) -> bytes:
    """An archive of torch whose pickle is another program."""
    return with_pickle(content, program(draw) if draw.random() < 0.25 else changed(pickle_of(content), draw))
