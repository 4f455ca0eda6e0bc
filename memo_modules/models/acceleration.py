"""What makes a network faster without changing what it computes beyond rounding.

One more of the kind, one product for linears of the same input, is asked for when a network is built: ``Layers.fused``.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from .audio_module import AudioModule
from .memory_attention import MemoryAttentionFunction, memory_attention
from .motion import MotionModule
from .resnet import ResnetBlock
from .transformer import SpatialTransformer

REGIONS = (ResnetBlock, SpatialTransformer, AudioModule, MotionModule)
"""What is compiled, each for itself: a UNet repeats them at a few shapes, so that few compilations serve all layers."""

_SHAPES = 64  # more than the shapes at which one kind of region occurs; torch gives up at 8


def channels_last(net: nn.Module) -> None:
    """Keep pictures as (n h w c) in memory: convolutions want them so, and tokens (n (h w) c) are the same memory."""
    net.to(memory_format=torch.channels_last)


def fastest_memory_attention(capability: tuple[int, int] | None) -> MemoryAttentionFunction:
    """For ``Layers.memory_attention`` of nets that are not trained: one kernel on cards of NVIDIA's from Ampere on where
    Triton is there, which comes with torch for CUDA on Linux. capability: the card's compute capability, None elsewhere."""
    if capability is None or capability < (8, 0) or find_spec("triton") is None:
        return memory_attention
    from . import memory_attention_triton

    return memory_attention_triton.memory_attention


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
