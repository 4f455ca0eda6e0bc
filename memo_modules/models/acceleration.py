"""What makes a network faster without changing what it computes beyond rounding.

More of the kind are asked for when a network is built: one product for linears of the same input, pictures with their
channels last, and products in the place of convolutions (``Layers.fused``, ``lay_out``, ``product``).
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..types import AttentionMemory
from .audio_module import AudioModule
from .config import DiffusionNetConfig
from .kernels.convolution import few_places, pointwise
from .kernels.fastest import Fastest
from .kernels.gating import gating
from .kernels.memory_attention import memory_attention
from .kernels.picture_norm import picture_norm
from .layers import AttentionFunction, Layers, channels_last, sdpa
from .motion import MotionModule
from .resnet import ResnetBlock
from .transformer import SpatialTransformer
from .unet import down_specs, up_specs

REGIONS = (ResnetBlock, SpatialTransformer, AudioModule, MotionModule)
"""What is compiled, each for itself: a UNet repeats them at a few shapes, so that few compilations serve all layers."""

logger = logging.getLogger(__name__)

_NORM_VALUES = 2**13
"""In the pictures that group norms are tried on, by position: at 512×512 more than a card keeps in its cache, as in a step."""

_CONTEXTS = (4, 32)
"""Tokens of a face and of the audio, as in a step: beside them a kernel for whole blocks does not do."""

_SHAPES = 64  # more than the shapes at which one kind of region occurs; torch gives up at 8


OPTIONS = ("fused", "channels_last", "product", "choice")
"""The exact accelerations, by the names under which ``for_device`` can leave them out."""


def for_device(
    layers: Layers,
    capability: tuple[int, int] | None,
    *,
    on_cpu: bool,
    attention: Mapping[str, AttentionFunction] | None = None,
    off: Sequence[str] = (),
) -> Layers:
    """``layers`` with all that is exact and makes a UNet faster on a device.

    capability: compute capability of an NVIDIA GPU, None on other devices. attention: the host's own by name, which competes with the
    others; None keeps that of ``layers``. off: OPTIONS to do without. What is to be chosen by running it is chosen by ``choose_forms``.
    """
    layers = replace(layers, fused="fused" not in off)
    if on_cpu:  # channels last makes torch's gradients of group norm crash there
        return layers if "product" in off else replace(layers, product=few_places)
    if capability is None:
        return layers
    if "product" not in off:
        layers = replace(layers, product=pointwise)
    if "channels_last" not in off:
        layers = replace(layers, lay_out=channels_last)
    if "choice" in off:
        return layers
    forms = kernel_forms(capability)
    if attention is not None:
        forms["attention"] = {**attention, **attention_forms(capability)}
    return replace(layers, **{name: Fastest(name, each) for name, each in forms.items()})


def attention_forms(capability: tuple[int, int] | None) -> dict[str, AttentionFunction]:
    """Attention beside what a host has. capability: compute capability of a card of NVIDIA's, None on other devices."""
    forms = {}
    if capability and "set_priority" in inspect.signature(sdpa_kernel).parameters:
        forms["cuDNN"] = _cudnn_first
    if _builds_kernels(capability):
        from .kernels.attention_triton import attention_for

        forms["Triton"] = attention_for(capability)
    return forms


def kernel_forms(capability: tuple[int, int] | None) -> dict[str, dict[str, Callable]]:
    """The same for what else ``Layers`` takes in several forms, by its name there, torch's own operations first."""
    forms: dict[str, dict[str, Callable]] = {
        "memory_attention": {"torch": memory_attention},
        "gating": {"torch": gating},
        "picture_norm": {"torch": picture_norm},
    }
    if _builds_kernels(capability):
        from .kernels import gating_triton, memory_attention_triton, picture_norm_triton

        forms["memory_attention"]["Triton"] = memory_attention_triton.memory_attention
        forms["gating"]["Triton"] = gating_triton.gating
        forms["picture_norm"]["Triton"] = picture_norm_triton.picture_norm
    return forms


def choose_forms(layers: Layers, config: DiffusionNetConfig, device: torch.device, dtype: torch.dtype, side: int = 64) -> None:
    """Have what is Fastest of ``layers`` choose for the widths of a UNet that computes in ``dtype``. side: of the latents; those
    of 512×512 take 500 MB in 16 bits."""
    motion, random = config.motion_module_kwargs, partial(torch.randn, dtype=dtype, device=device)
    specs = zip(down_specs(config), reversed(up_specs(config)), strict=True)
    for level, (c, down_and_up) in enumerate(zip(config.block_out_channels, specs, strict=True)):
        tokens, heads = side**2 // 4**level, config.heads(level)
        for width in sorted({width for spec in down_and_up for layer in spec.layers for width in (layer.c_in, layer.c_out)}):
            if _is_open(layers.picture_norm, width // config.norm_num_groups):
                x = random(max(1, _NORM_VALUES * side**2 // (tokens * width)), tokens, width)
                layers.picture_norm.choose((x, random(width), random(width), config.norm_eps, True, config.norm_num_groups))
        if _is_open(layers.attention, c // heads):
            face, audio = _CONTEXTS
            lengths = ((tokens, face), (tokens, 2 * tokens), (audio, audio), (tokens + audio, tokens + audio))
            others = ((random(1, queries, c), *random(1, keys, 2 * c).chunk(2, dim=-1), heads) for queries, keys in lengths)
            layers.attention.choose((*random(4 * 4**level, tokens, 3 * c).chunk(3, dim=-1), heads), *others)
        if _is_open(layers.gating, 8 * c):
            layers.gating.choose((random(4 * side**2 // 2**level, 8 * c),))
        heads, d = motion.num_attention_heads, c // motion.temporal_attention_dim_div
        if _is_open(layers.memory_attention, d // heads):
            q, k, v = random(tokens // 2, 16, 3 * d).chunk(3, dim=-1)
            kv = random(tokens // 2, heads, d // heads, d // heads)
            memory = AttentionMemory(kv, random(kv.shape[:3]).abs())
            layers.memory_attention.choose((q, k, v, memory, heads))


def _is_open(form: object, channels: int) -> TypeGuard[Fastest]:
    return isinstance(form, Fastest) and channels not in form.chosen


def _builds_kernels(capability: tuple[int, int] | None) -> TypeGuard[tuple[int, int]]:
    """From Ampere on, where Triton is there, which comes with torch for CUDA on Linux."""
    if capability is None or capability < (8, 0) or find_spec("triton") is None:
        return False
    try:
        import triton.language  # noqa: F401
    except Exception as error:  # a library of its own that is not there, or of another version: nothing that is needed
        logger.warning("Triton cannot be imported, and its kernels are not used: %s", error)
        return False
    return True


def _cudnn_first(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        return sdpa(q, k, v, heads)


def compiled_regions(net: nn.Module, **options) -> dict[nn.Module, Callable]:
    """Compiled forms of the regions of ``net``, for its attribute ``compiled``; options: of torch.compile.

    Each is compiled when it first runs, which takes minutes in all, once for all clips and videos of a size. For weights
    that stay where they are: streamed ones would be compiled again and again.
    """
    import torch._dynamo

    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # its name before torch 2.6
    setattr(config, limit, max(getattr(config, limit), _SHAPES))
    return {module: torch.compile(module, dynamic=False, **options) for module in net.modules() if isinstance(module, REGIONS)}
