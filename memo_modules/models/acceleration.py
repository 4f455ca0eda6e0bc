"""What makes a network faster without changing what it computes beyond rounding.

More of the kind are asked for when a network is built: one matmul for linears of the same input, the channels_last memory format,
and convolutions computed as matmuls (``Layers.fused``, ``to_memory_format``, ``conv_as_matmul``).
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
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..types import AttentionMemory
from ..words import first_line
from .audio_module import AudioModule
from .config import DiffusionNetConfig
from .kernels.autotune import AMD, Autotuned
from .kernels.convolution import few_positions, pointwise
from .kernels.geglu import geglu
from .kernels.group_norm_silu import group_norm_silu
from .kernels.memory_attention import ONES, memory_attention
from .layers import AttentionFunction, Layers, channels_last, sdpa
from .motion import MotionModule
from .resnet import ResnetBlock
from .transformer import SpatialTransformer
from .unet import down_specs, up_specs

REGIONS = (ResnetBlock, SpatialTransformer, AudioModule, MotionModule)
"""What is compiled, each for itself: a UNet repeats them at a few shapes, so that few compilations serve all layers."""

logger = logging.getLogger(__name__)

_NORM_VALUES = 2**13
"""In the pictures that group norms are tried on, by position: at 512×512 more than a GPU keeps in its cache, as in a step."""

_CONTEXTS = (4, 32)
"""Tokens of a face and of the audio, as in a step: kernels that need whole blocks fail at them."""

_SHAPES = 64  # more than the shapes at which one kind of region occurs; torch gives up at 8


OPTIONS = ("fused", "channels_last", "conv_as_matmul", "autotune")
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

    capability: see autotune.capability_of; on AMD's GPUs the memory format is chosen here, by a trial. attention: the host's own by name, which
    competes with the others; None keeps that of ``layers``. off: OPTIONS to do without. ``autotune_kernels`` then chooses among what is
    Autotuned.
    """
    layers = replace(layers, fused="fused" not in off)
    if on_cpu:  # channels last makes torch's gradients of group norm crash there
        return layers if "conv_as_matmul" in off else replace(layers, conv_as_matmul=few_positions)
    if capability is None:
        return layers
    if "conv_as_matmul" not in off:
        layers = replace(layers, conv_as_matmul=pointwise)
    if "channels_last" not in off and (capability != AMD or channels_last_pays(torch.device("cuda"), layers.dtype or torch.float16)):
        layers = replace(layers, to_memory_format=channels_last)
    if "autotune" in off:
        return layers
    backends = kernel_backends(capability)
    if attention is not None:
        backends["attention"] = {**attention, **attention_backends(capability)}
    return replace(layers, **{name: Autotuned(name, each) for name, each in backends.items()})


def attention_backends(capability: tuple[int, int] | None) -> dict[str, AttentionFunction]:
    """Attention besides what a host has: for NVIDIA's GPUs, to whose sizes ours is written. capability: see autotune.capability_of."""
    backends: dict[str, AttentionFunction] = {}
    if capability in (None, AMD):
        return backends
    if "set_priority" in inspect.signature(sdpa_kernel).parameters:
        backends["cuDNN"] = _cudnn_first
    if _builds_kernels(capability):
        from .kernels.attention_triton import attention_for

        backends["Triton"] = attention_for(capability)
    return backends


def kernel_backends(capability: tuple[int, int] | None) -> dict[str, dict[str, Callable]]:
    """The same for what else ``Layers`` takes with several backends, by its name there, torch's own operations first."""
    backends: dict[str, dict[str, Callable]] = {
        "memory_attention": {"torch": memory_attention},
        "geglu": {"torch": geglu},
        "group_norm_silu": {"torch": group_norm_silu},
    }
    if _builds_kernels(capability):
        from .kernels import geglu_triton, group_norm_silu_triton, memory_attention_triton

        backends["memory_attention"]["Triton"] = memory_attention_triton.memory_attention
        backends["geglu"]["Triton"] = geglu_triton.geglu
        backends["group_norm_silu"]["Triton"] = group_norm_silu_triton.group_norm_silu
    return backends


def autotune_kernels(layers: Layers, config: DiffusionNetConfig, device: torch.device, dtype: torch.dtype, side: int = 64) -> None:
    """Tune what is Autotuned of ``layers`` for the widths of a UNet that computes in ``dtype``. side: of the latents; those
    of 512×512 take 500 MB in 16 bits."""
    motion, random = config.motion_module_kwargs, partial(torch.randn, dtype=dtype, device=device)
    specs = zip(down_specs(config), reversed(up_specs(config)), strict=True)
    for level, (c, down_and_up) in enumerate(zip(config.block_out_channels, specs, strict=True)):
        tokens, heads = side**2 // 4**level, config.heads(level)
        for width in sorted({width for spec in down_and_up for layer in spec.layers for width in (layer.c_in, layer.c_out)}):
            if _is_open(layers.group_norm_silu, width // config.norm_num_groups):
                x = random(max(1, _NORM_VALUES * side**2 // (tokens * width)), tokens, width)
                layers.group_norm_silu.tune((x, random(width), random(width), random(width), config.norm_eps, True, config.norm_num_groups))
        if _is_open(layers.attention, c // heads):
            face, audio = _CONTEXTS
            lengths = ((tokens, face), (tokens, 2 * tokens), (audio, audio), (tokens + audio, tokens + audio))
            others = ((random(1, queries, c), *random(1, keys, 2 * c).chunk(2, dim=-1), heads) for queries, keys in lengths)
            layers.attention.tune((*random(4 * 4**level, tokens, 3 * c).chunk(3, dim=-1), heads), *others)
        if _is_open(layers.geglu, 8 * c):
            layers.geglu.tune((random(4 * side**2 // 2**level, 8 * c),))
        heads, d = motion.num_attention_heads, c // motion.temporal_attention_dim_div
        if _is_open(layers.memory_attention, d // heads):
            q, k, v = random(1, 16, tokens // 2, 3 * d).chunk(3, dim=-1)
            kv = random(tokens // 2, heads, d // heads, d // heads)
            memory = AttentionMemory(kv, random(kv.shape[:3]).abs())
            layers.memory_attention.tune((q, k, v, memory, random(16, 3 * d), ONES, heads))


Choices = dict[str, dict[str, str]]
"""Of each Autotuned by its name, the backend by channels, which are text as in JSON."""


def choices(*nets: nn.Module) -> Choices:
    """The backends that were chosen for ``nets``: each rounds in its own way."""
    return {tuned.name: {str(channels): name for channels, name in sorted(tuned.chosen.items())} for tuned in _autotuned(nets) if tuned.chosen}


def choose(chosen: Choices, *nets: nn.Module) -> None:
    """Have ``nets`` take backends that were chosen before, of those that there are."""
    for tuned in _autotuned(nets):
        before = {int(channels): name for channels, name in chosen.get(tuned.name, {}).items() if name in tuned.backends}
        if differing := sorted(f"{channels} {name}" for channels, name in before.items() if tuned.chosen.get(channels) != name):
            logger.info("%s: %s, as the video was begun.", tuned.name, ", ".join(differing))
        tuned.chosen |= before


def keep_choices(kept: Callable[[Choices], Choices], *nets: nn.Module) -> None:
    """Have ``nets`` take the backends that ``kept``, such as Journal.kernels, gives for those that were chosen: those of a video's beginning."""
    choose(kept(choices(*nets)), *nets)


def _autotuned(nets: tuple[nn.Module, ...]) -> list[Autotuned]:
    held = {id(value): value for net in nets for module in net.modules() for value in vars(module).values() if isinstance(value, Autotuned)}
    return list(held.values())


def _is_open(backend: object, channels: int) -> TypeGuard[Autotuned]:
    return isinstance(backend, Autotuned) and channels not in backend.chosen


def _builds_kernels(capability: tuple[int, int] | None) -> TypeGuard[tuple[int, int]]:
    """From Ampere on and on AMD's, where Triton is there, which comes with torch for GPUs on Linux."""
    too_old = capability is None or (capability != AMD and capability < (8, 0))
    if too_old or find_spec("triton") is None:
        return False
    try:
        import triton.language  # noqa: F401
    except Exception as error:  # a library of its own that is not there, or of another version: nothing that is needed
        logger.warning("Triton cannot be imported, and its kernels are not used: %s", error)
        return False
    return True


@torch.inference_mode()
def channels_last_pays(device: torch.device, dtype: torch.dtype, pictures: int = 4) -> bool:
    """Whether a convolution of a UNet is faster on ``device`` with its channels last, and gives the same. pictures: it is tried on, of 512×512."""
    random = partial(torch.randn, dtype=dtype, device=device)
    x, weight = random(pictures, 320, 64, 64), random(320, 320, 3, 3)

    def convolution(memory_format: torch.memory_format) -> Callable[..., Tensor]:
        inputs, kernel = x.to(memory_format=memory_format), weight.to(memory_format=memory_format)
        return lambda *_: F.conv2d(inputs, kernel, padding=1)

    formats = {"channels first": convolution(torch.contiguous_format), "channels last": convolution(torch.channels_last)}
    tuned = Autotuned("convolution", formats)
    tuned.tune((x,))
    return "channels last" in tuned.chosen.values()


def _cudnn_first(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        return sdpa(q, k, v, heads)


def compiled_regions(net: nn.Module, **options) -> dict[nn.Module, Callable]:
    """Compiled versions of the regions of ``net``, for its attribute ``compiled``; options: of torch.compile.

    Each is compiled when it first runs, which takes minutes in all, once for all clips and videos of a size. For weights
    that stay where they are: streamed ones would be compiled again and again. Where the compiler fails, the regions run as they are.
    """
    import torch._dynamo

    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # its name before torch 2.6
    setattr(config, limit, max(getattr(config, limit), _SHAPES))
    compiler = _Compiler()
    return {
        module: partial(compiler.run, module, torch.compile(module, dynamic=False, **options))
        for module in net.modules()
        if isinstance(module, REGIONS)
    }


class _Compiler:
    """torch's, until it fails: for want of Triton or of a C compiler it does so at the first region, and would at each."""

    def __init__(self):
        self.works = True

    def run(self, module: nn.Module, compiled: Callable, *args):
        from torch._dynamo.exc import TorchDynamoException  # which takes seconds to import

        if self.works:
            try:
                return compiled(*args)
            except TorchDynamoException as error:
                self.works = False
                logger.warning("compiled is ignored: torch.compile does not work here (%s).", first_line(error))
        return module(*args)
