"""Damage to files: what disks, networks and ill will do to bytes, and changes that know what the bytes mean."""

import io
import json
import random
import re
import struct
import zipfile
from typing import Any

INTERESTING = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
"""Numbers at which arithmetic goes wrong."""

ODD_VALUES = (
    None, True, False, 0, 1, -1, 3, 0.5, -0.0, 1e308, float("nan"), float("inf"), 10**9, 2**31, 2**62, 2**63, 2**64, 10**30, "", "x", "../../x",
    "\0", "a" * 5000, [], [0], [-1], [1, 2, 3], [2**62, 4], ["x"] * 4, [None] * 4, [1e9] * 4, [64] * 1000, {}, {"x": 1}, [[]],
)  # fmt: skip
"""JSON values that a reader does not expect."""


FOUND_CONFIGS = (
    {"in_channels": 2_000_000}, {"out_channels": 2**40}, {"sample_size": [2**40] * 2}, {"down_block_types": ["code()"] * 4},
    {"layers_per_block": 10**9}, {"block_out_channels": [65] * 4, "norm_num_groups": 1}, {"block_out_channels": [16, 32, 48, 48]},
    {"add_adapter": True, "num_adapter_layers": 100_000}, {"num_labels": 10**8}, {"num_hidden_layers": 20_000}, {"conv_stride": [1] * 7},
    {"conv_dim": [32]}, {"hidden_act": "code()"}, {"quantization_config": {"load_in_8bit": True}}, {"auto_map": {"AutoModel": "x--y.Z"}},
    {"torch_dtype": "float16"}, {"do_stable_layer_norm": True}, {"act_fn": "mish"}, {"scaling_factor": float("nan")},
)  # fmt: skip
"""Changes of configs that were taken once, or took minutes or all memory."""

FOUND_TEXTS = (
    "[" * 100_000, "a: &a [*a]", "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(12)),
    "steps: " + "[" * 900, "? [1]\n: 2", "a: !!bool x", "a: !!python/object/apply:os.system [true]", "steps: 0x" + "f" * 100_000, "\0", "",
)  # fmt: skip


def damage(content: bytes, draw: random.Random, head: int | None = None) -> bytes:
    """One to four changes of single bytes, numbers and spans. head: most of them happen in so many first bytes."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        at = draw.randrange(min(len(data), head) if head and draw.random() < 0.8 else len(data))
        kind = draw.choice(("flip", "flip", "byte", "number", "number", "cut", "remove", "insert", "repeat", "blank", "move"))
        if kind == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif kind == "byte":
            data[at] = draw.randrange(256)
        elif kind == "number":
            size = draw.choice((2, 4, 8))
            number = draw.choice((*INTERESTING, len(data), len(data) + 1, draw.getrandbits(64))) % (1 << 8 * size)
            data[at : at + size] = number.to_bytes(size, draw.choice(("little", "big")))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + draw.choice((1, 2, 4, 100, 5000))]
        elif kind == "insert":
            data[at:at] = draw.randbytes(draw.choice((1, 2, 4, 8, 300)))
        elif kind == "repeat":
            data[at:at] = bytes(data[at : at + draw.choice((4, 64, 4096))]) * draw.choice((1, 2, 50))
        elif kind == "blank":
            data[at : at + draw.choice((1, 16, 1024))] = bytes([draw.choice((0, 255))]) * draw.choice((1, 16, 1024))
        else:
            piece = data[at : at + 64]
            to = draw.randrange(len(data))
            data[to : to + len(piece)] = piece
    return bytes(data)


def damaged_json(value: Any, draw: random.Random) -> Any:
    """``value`` with one to three of its parts replaced, removed, renamed or added."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = _changed(value, draw)
    return value


def _changed(value: Any, draw: random.Random) -> Any:
    inner = isinstance(value, dict | list) and len(value) > 0
    if not inner or draw.random() < 0.03:
        if isinstance(value, int) and draw.random() < 0.5:
            return draw.choice((value + 1, value - 1, -value, value * 2, value * 1000, *INTERESTING))
        return nested(draw) if draw.random() < 0.02 else draw.choice(ODD_VALUES)
    if isinstance(value, list):
        copy, at = list(value), draw.randrange(len(value))
        if draw.random() < 0.2:
            del copy[at]
        elif draw.random() < 0.2:
            copy.insert(at, draw.choice(ODD_VALUES))
        else:
            copy[at] = _changed(value[at], draw)
        return copy
    copy, key = dict(value), draw.choice(list(value))
    what = draw.random()
    if what < 0.1:
        del copy[key]
    elif what < 0.2:
        copy[draw.choice((f"{key}x", "", "..", "\0", draw.choice(list(value))))] = copy.pop(key)
    else:
        copy[key] = _changed(value[key], draw)
    return copy


def nested(draw: random.Random) -> Any:
    """Deeper than a recursive reader goes."""
    value: Any = 0
    for _ in range(draw.choice((50, 900))):
        value = [value]
    return value


def damaged_config(content: bytes, draw: random.Random) -> bytes:
    """A JSON file with other values, or damaged as bytes."""
    if draw.random() < 0.15:
        return damage(content, draw)
    if draw.random() < 0.02:
        return b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    if draw.random() < 0.2:
        return json.dumps(json.loads(content) | draw.choice(FOUND_CONFIGS)).encode()
    return json.dumps(damaged_json(json.loads(content), draw)).encode()


def damaged_safetensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file with another header, in the right frame, or damaged as bytes."""
    (size,) = struct.unpack("<Q", content[:8])
    if draw.random() < 0.35:
        return damage(content, draw, head=8 + size)
    header = json.loads(content[8 : 8 + size])
    body = content[8 + size :]
    kind = draw.random()
    if kind < 0.25:  # an entry of its own making that holds together
        name = draw.choice([key for key in header if key != "__metadata__"])
        first, last = header[name]["data_offsets"]
        size = last - first
        forms = {"I8": [size], "U8": [1, size], "F16": [size // 2], "BF16": [size // 2, 1, 1, 1, 1], "I64": [size // 8], "F8_E4M3": [size]}
        dtype, shape = draw.choice((*forms.items(), ("F32", []), ("F32", [0, 2**62])))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}
    elif kind < 0.4:
        entries = ("[]", "{", '{"image_proj": 1}', "[" * 100_000, 3)
        header["__metadata__"] = draw.choice((None, {}, *({"memo": entry} for entry in entries)))
    elif kind < 0.5:
        names = [key for key in header if key != "__metadata__"]
        first, second = draw.choice(names), draw.choice(names)
        header[first], header[second] = header[second], header[first]
    else:
        header = damaged_json(header, draw)
    written = json.dumps(header).encode()
    size = len(written) if draw.random() < 0.9 else draw.choice(INTERESTING)
    return struct.pack("<Q", size) + written + body


def damaged_zip(content: bytes, draw: random.Random) -> bytes:
    """A pickle of torch with damage inside its parts, in a whole archive again, or damaged as bytes."""
    if draw.random() < 0.4:
        return damage(content, draw)
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    compression = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(target, "w", compression) as archive:
        for entry in source.infolist():
            part = source.read(entry)
            name = entry.filename
            if name.endswith("data.pkl") or draw.random() < 0.05:
                part = damage(part, draw)
            if draw.random() < 0.02:
                name = draw.choice((name + "x", "../" + name, "/" + name, "x"))
            if draw.random() < 0.98:
                archive.writestr(name, part)
    return target.getvalue()


def crowded_safetensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file as ``damaged_safetensors``, or one with thousands of names that no value belongs to."""
    if draw.random() < 0.7:
        return damaged_safetensors(content, draw)
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    name = draw.choice([key for key in header if key != "__metadata__"])
    shape = draw.choice(([0], [0, 0, 0], [2**40, 0], header[name]["shape"]))
    for number in range(draw.choice((3, 100, 5000, 20_000))):
        numbered = re.sub(r"\d+", str(number), name) if re.search(r"\d", name) else f"blocks.{number}.x"
        header.setdefault(numbered, {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]})
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + content[8 + size :]


def damaged_yaml(content: bytes, draw: random.Random) -> bytes:
    """A YAML file with other values, one that was found, or damaged as bytes."""
    import yaml

    if draw.random() < 0.2:
        return damage(content, draw)
    if draw.random() < 0.2:
        return content + draw.choice(FOUND_TEXTS).encode()
    return json.dumps(damaged_json(yaml.safe_load(content), draw)).encode()  # which is YAML, and written as deep as one likes


def damaged_lines(content: bytes, draw: random.Random) -> bytes:
    """A file of a JSON object in every line with another one instead of one of them, or damaged as bytes."""
    if draw.random() < 0.3:
        return damage(content, draw)
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = draw.choice(FOUND_TEXTS).encode() if draw.random() < 0.2 else json.dumps(damaged_json(json.loads(lines[at]), draw)).encode()
    return b"\n".join(lines)


def damaged_onnx(content: bytes, draw: random.Random) -> bytes:
    """An ONNX file with other shapes, types, operators or numbers in its graph, or damaged as bytes."""
    import onnx

    if draw.random() < 0.3:
        return damage(content, draw)
    model = onnx.load_model_from_string(content)
    graph = model.graph
    for _ in range(draw.choice((1, 1, 2))):
        kind, node = draw.choice(("shape", "shape", "type", "operator", "constant", "sizes", "attribute", "name", "version")), draw.choice(graph.node)
        described = draw.choice([*graph.input, *graph.output])
        sides = described.type.tensor_type.shape.dim
        if kind == "shape" and sides:
            draw.choice(sides).dim_value = draw.choice((0, 1, 3, 128, 2**31, 2**62, -1))
        elif kind == "type":
            described.type.tensor_type.elem_type = draw.randrange(0, 20)
        elif kind == "operator":
            node.op_type = draw.choice(("Identity", "Neg", "Log", "Sqrt", "Transpose", "Shape", "NonZero", "NoSuchOperator", "Tile", "Expand"))
        elif kind in ("constant", "sizes") and graph.initializer:
            constant = draw.choice(graph.initializer)
            if kind == "sizes":
                constant.dims[:] = draw.choice(([], [0], [2**40], [128, 4], [-1, 3], list(reversed(constant.dims))))
            else:
                constant.raw_data = (draw.choice((b"\xff", b"\x00", b"\x7f")) * len(constant.raw_data))[: len(constant.raw_data)]
        elif kind == "attribute" and node.attribute:
            attribute = draw.choice(node.attribute)
            attribute.i = draw.choice(INTERESTING[:12])
            attribute.ints[:] = [draw.choice((0, 1, 7, 2**31, -1)) for _ in attribute.ints]
        elif kind == "name":
            node.output[0] = draw.choice(("x", "", graph.output[0].name, node.input[0] if node.input else "y"))
        elif kind == "version":
            model.opset_import[0].version = draw.choice((0, 1, 7, 25, 10**6))
    return model.SerializeToString()
