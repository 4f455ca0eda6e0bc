"""Values of the right kind with something wrong in them, as another pack might make them: field by field, for every socket."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

NAN, INF = math.nan, math.inf

OF_ANY_FIELD = {
    "None": None,
    "text": "text",
    "True": True,
    "-1": -1,
    "half": 0.5,
    "NaN": NAN,
    "inf": INF,
    "10^30": 10**30,
    "10^400": 10**400,
    "list": [1],
    "no items": (),
    "items of text": ("a", "b"),
    "an object": object(),
    "a tensor": torch.zeros(3),
}

FINE = {
    ("MEMO_EMOTION", "probabilities"): ("None",),
    ("MEMO_FACE", "box"): ("None",),
    ("MEMO_FACE", "score"): ("-1", "half"),
    ("MEMO_CROP", "left"): ("-1",),
    ("MEMO_CROP", "top"): ("-1",),
    ("MEMO_MODEL", "loras"): ("no items",),
}
"""Fields for which some of those are as good as any other."""

OF_FIELDS = {
    ("MEMO_MODEL", "distilled"): ({"steps": 0}, {"speed": 1}),
    ("MEMO_AUDIO", "fps"): (Fraction(0), Fraction(10**9), 30, 30.0),
    ("MEMO_AUDIO", "frame_count"): (0, 33),
    ("MEMO_AUDIO", "clip_frames"): (0, 33, 7),
    ("MEMO_AUDIO", "start"): (8, 16, 32),
    ("MEMO_AUDIO", "timing"): ("late",),
    ("MEMO_EMOTION", "starts"): ((1,), (0, 0), (0, -5), (0.0,), (NAN,), (True,)),
    ("MEMO_EMOTION", "labels"): ((9,), (-1,), (1.5,), ("happy",), (1, 2), (None,)),
    ("MEMO_EMOTION", "probabilities"): (((0.5,) * 8,), ((NAN,) * 9,), (("a",) * 9,), ((2.0,) * 9,), ((-1.0,) * 9,), ((0.1,) * 9,) * 2),
    ("MEMO_EMOTION", "sample_rate"): (0,),
    ("MEMO_FACE", "box"): ((0, 0, 1), (0, 0, NAN, 1), (0, 0, 1, "a"), (0, 0, 1, INF)),
    ("MEMO_CROP", "left"): (64, -64),
    ("MEMO_CROP", "top"): (64, -64),
    ("MEMO_CROP", "side"): (0, 64 * 17),
    ("MEMO_CROP", "photo_size"): ((64,), (64, 0), (64, -1), (64, 64.5), (64, True), (64, 64, 64)),
    ("MEMO_STATE", "last_frames"): (0, 17),
    ("MEMO_STATE", "clips"): (0,),
    ("MEMO_STATE", "past_latents"): ((torch.zeros(16, 4, 8, 9),), (torch.full((16, 4, 8, 8), NAN),), (torch.zeros(0, 4, 8, 8),)),
    ("MEMO_STATE", "generator"): (torch.zeros(16, dtype=torch.uint8), torch.zeros(5056, dtype=torch.uint8)),
    ("MEMO_MODEL", "dtype"): (torch.int8, "float32"),
}
"""What is wrong in a field of that kind."""


def tensors(good: Tensor) -> dict[str, Any]:
    """What can be wrong with a tensor that is otherwise like ``good``."""
    floats = good.float()
    spoilt, infinite = floats.clone(), floats.clone()
    spoilt.view(-1)[-1], infinite.view(-1)[0] = NAN, INF
    return {
        "numpy": good.numpy(),
        "a list of it": [good],
        "no dimension": torch.tensor(0.5),
        "one dimension too many": good[None],
        "one too few": good[0],
        "none of it": good[:0],
        "bool": good.bool(),
        "int16": good.to(torch.int16),
        "int64": good.long(),
        "complex": floats.to(torch.complex64),
        "8 bits": floats.to(torch.float8_e4m3fn),
        "NaN": spoilt,
        "inf": infinite,
        "sparse": floats.to_sparse(),
        "meta": good.to("meta"),
        "nested": torch.nested.nested_tensor([floats.view(-1), floats.view(-1)[:1]]),
        "repeated for ever": floats.view(-1)[:1].expand(2**40).reshape([2**40] + [1] * (good.ndim - 1)),
    }


def alike(good: Tensor) -> dict[str, Tensor]:
    """The same values in tensors as other packs make them; those of ``good`` fit into 8 bits, and are the same in all channels."""
    with torch.inference_mode():
        of_an_inference = good.clone()
    return {
        "with a gradient": good.clone().requires_grad_(),
        "a parameter": torch.nn.Parameter(good.clone()),
        "of an inference": of_an_inference,
        "every other value of another": good.repeat_interleave(2, dim=-1)[..., ::2],
        "dimensions swapped": good.transpose(-2, -1).contiguous().transpose(-2, -1),
        "values that repeat": (good[..., :1] if good.ndim == 4 else good[:, :1]).expand_as(good),
        "an imaginary part": torch.complex(torch.zeros_like(good), -good).conj().imag,
        "16 bits": good.half(),
        "bfloat16": good.bfloat16(),
        "64 bits": good.double(),
    }


def of_dataclass(socket: str, good: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(good):
        at, value = (socket, field.name), getattr(good, field.name)
        bad = {name: made for name, made in OF_ANY_FIELD.items() if name not in FINE.get(at, ()) and not (name == "text" and value == "model")}
        bad |= {repr(made)[:60]: made for made in OF_FIELDS.get(at, ())}
        if isinstance(value, Tensor):
            bad |= tensors(value)
        for name, made in bad.items():
            yield f"{field.name}: {name}", replace(good, **{field.name: made})


def of_sound(good: dict) -> Iterator[tuple[str, Any]]:
    waveform = good["waveform"]
    for name, made in tensors(waveform).items():
        if name == "one too few":  # (channels, samples) is taken, as other packs make it
            continue
        yield f"waveform: {name}", good | {"waveform": made}
    for name, made in {"two takes": waveform.expand(2, 1, -1), "200 channels": waveform.expand(1, 200, -1), "too loud": waveform + 1e20}.items():
        yield name, good | {"waveform": made}
    for name, rate in (OF_ANY_FIELD | {"16000.5": 16000.5, "0": 0, "1": 1, "-16000": -16000, "10^30": 1e30, "-inf": -INF}).items():
        yield f"sample_rate: {name}", good | {"sample_rate": rate}
    yield from (("no keys", {}), ("no rate", {"waveform": waveform}), ("no waveform", {"sample_rate": 16000}))


def of_socket(socket: str, good: Any) -> Iterator[tuple[str, Any]]:
    """What it is, and a value for a socket that takes ``good``."""
    if is_dataclass(good):
        yield from of_dataclass(socket, good)
    elif socket == "AUDIO":
        yield from of_sound(good)
    elif socket == "IMAGE":
        yield from tensors(good).items()
        yield from (
            ("tiny", good[:, :8, :8]),
            ("no picture", good[:, :0]),
            ("0 to 255", good + 255),
            ("8 channels", good.repeat(1, 1, 1, 3)[..., :8]),
        )
    elif socket == "SIGMAS":
        yield from tensors(good).items()
        yield from (("rising", good.flip(0)), ("one", good[:1]), ("above 1", good * 14))
    yield from ((f"itself: {name}", made) for name, made in OF_ANY_FIELD.items() if name != "None")


OF_NUMBERS = {
    "True": True,
    "text": "1",
    "NaN": NAN,
    "inf": INF,
    "-inf": -INF,
    "10^400": 10**400,
    "a list": [1],
    "a tensor": torch.tensor(1),
    "1j": 1j,
}
"""What comes by a link instead of a number within range."""
