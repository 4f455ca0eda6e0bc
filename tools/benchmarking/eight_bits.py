"""What weights in 8 bits cost in exactness, on full-width nets of random weights: the error of the weights by kind of layer, and of one step.

    python -m tools.bench eight_bits

fp8: float8_e4m3fn as it is, as weight_dtype fp8_e4m3fn stores it. With a scale per tensor or per output row: the same times a number. int8:
whole numbers with a scale per output row. Those per row are weight_dtype fp8_e4m3fn_scaled and int8_scaled, which leave the smallest layers as they
are; here all are rounded. Products are computed in float32, so that only what is stored differs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from memo_modules.models.layers import Layers
from memo_modules.models.row_scales import rounded
from memo_modules.types import NO_EMOTION, ReferenceFeatures
from tools.benchmarking import random_nets

FRAMES = 2
Stored = Callable[[Tensor], Tensor]
"""What is left of a matrix or kernel."""

_HAPPY = 3


def _per_row(weight: Tensor, dtype: torch.dtype) -> Tensor:
    held, scale = rounded(weight, dtype, torch.float32)
    return held.float() * scale


def _fp8(weight: Tensor) -> Tensor:
    return weight.to(torch.float8_e4m3fn).to(weight.dtype)


_FP8_LARGEST = torch.finfo(torch.float8_e4m3fn).max

FORMS: dict[str, Stored] = {
    "bf16": lambda weight: weight.to(torch.bfloat16).to(weight.dtype),
    "fp8": _fp8,
    "fp8, scale per tensor": lambda weight: _fp8(weight * (_FP8_LARGEST / weight.abs().max())) * (weight.abs().max() / _FP8_LARGEST),
    "fp8, scale per row": partial(_per_row, dtype=torch.float8_e4m3fn),
    "int8, scale per row": partial(_per_row, dtype=torch.int8),
}


def kind_of(name: str, weight: Tensor) -> str:
    """Of a layer, for the table."""
    if weight.ndim == 4:
        return f"convolution {weight.shape[-1]}x{weight.shape[-1]}"
    if ".ff.net.2" in name or "_ff.net.2" in name:
        return "feed-forward, out"
    return "feed-forward, in" if "ff.net" in name else "attention and other linears"


@torch.inference_mode()
def measure(size: str) -> dict[str, dict[str, float]]:
    """By form and kind of layer the relative error of all weights of that kind, and under "step" that of a step's velocity with guidance, with
    what both nets remember of a past. One net of one form is in memory at a time."""
    expected, _ = _velocity(size, None)
    found = {}
    for form, stored in FORMS.items():
        velocity, errors = _velocity(size, stored)
        found[form] = errors | {"step": ((velocity - expected).norm() / expected.norm()).item()}
    return found


def _velocity(size: str, stored: Stored | None) -> tuple[Tensor, dict[str, float]]:
    """Of nets whose weights are what is left of them, by default as they are; and their errors by kind of layer."""
    generator, side, sums = torch.Generator().manual_seed(1), random_nets.latent_side(size), {}
    options = random_nets.options("diffusion_net", size)
    shapes = ((FRAMES, 4, side, side), (1, 4, options["cross_attention_dim"]), (FRAMES, 32, options["audio_attention_dim"]))
    latents, face, audio = (torch.randn(shape, generator=generator) for shape in shapes)
    past = _net("reference_net", size, stored, sums)(latents, face.expand(FRAMES, -1, -1))
    net = _net("diffusion_net", size, stored, sums)
    memory = net.empty_memory()
    net.update_memory(ReferenceFeatures(tuple(layer.repeat(2, *[1] * (layer.ndim - 1)) for layer in past.layers)), memory, FRAMES)
    spatial = net.spatial_contexts(torch.cat([torch.zeros_like(face), face]), past.select([0]))
    emotion = net.emotion_modulations(torch.tensor([NO_EMOTION, _HAPPY]), torch.float32)
    tokens = torch.cat([torch.zeros_like(audio), audio])
    without, guided = net(latents, torch.tensor([500.0]), tokens, spatial, emotion, memory, FRAMES).chunk(2)
    return without + 3.5 * (guided - without), {kind: (error / whole) ** 0.5 for kind, (error, whole) in sorted(sums.items())}


def _net(component: str, size: str, stored: Stored | None, sums: dict[str, list[float]]) -> Any:
    """A net, whose errors and weights, squared, are added to ``sums``."""
    net = random_nets.random_net(component, size, Layers(dtype=torch.float32, device="cpu"))
    for name, weight in net.named_parameters() if stored else ():
        if weight.ndim > 1 and "embedding_table" not in name:
            left = stored(weight)
            both = sums.setdefault(kind_of(name, weight), [0.0, 0.0])
            both[0] += (left - weight).square().sum().item()
            both[1] += weight.square().sum().item()
            weight.copy_(left)
    return net


def report(found: dict[str, dict[str, float]]) -> str:
    kinds = next(iter(found.values()))
    head = f"{'relative error':24}" + "".join(f"{kind:>28}" for kind in kinds)
    return "\n".join([head, *(f"{form:24}" + "".join(f"{100 * errors[kind]:27.2f}%" for kind in kinds) for form, errors in found.items())])


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py eight_bits", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("width", "tiny"), default="width", help="width: full-width nets at 64x64 (default)")
    return parser.parse_args(argv)
