"""ComfyUI's layers and attention for the nets, in the dtypes that its device computes in, with what is fastest there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ..memo_modules.errors import InputError
from ..memo_modules.models import acceleration
from ..memo_modules.models.kernels.autotune import capability_of
from ..memo_modules.models.kernels.in_place import Weights, own_weights
from ..memo_modules.models.layers import Layers

WEIGHT_DTYPES = {
    "auto": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp16_fp32": torch.float16,
    "fp8_e4m3fn_scaled": torch.float8_e4m3fn,
    "int8_scaled": torch.int8,
}
"""How the weights of the UNets are kept: auto as they compute best on the device, others cast as they are used. fp16_fp32: with a stream in
float32, see Layers.stream. Those that are scaled: with a scale for each output row, see row_scales."""


def compute_dtype() -> torch.dtype:
    """What the UNets compute in: bfloat16, else float16, on GPUs that have it; float32 on the CPU, and on MPS, where ComfyUI does not know
    bfloat16 to work: what this net makes of float16 there nobody has seen."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_cpu(device):
        return torch.float32
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    if comfy.model_management.should_use_fp16(device) and not comfy.model_management.is_device_mps(device):
        return torch.float16
    return torch.float32


def layers(dtype: torch.dtype, computes_in: torch.dtype | None = None, scaled: bool = False) -> Layers:
    """ComfyUI's cast operations and attention, for weights in ``dtype`` and arithmetic in the same or ``computes_in``;
    linears of one input are fused. In 8 bits are matrices and kernels alone. scaled: with a scale for each output row."""
    computes_in = computes_in or dtype
    device = comfy.model_management.get_torch_device()
    # with --fast core would have its products in 8 bits cast weights in 16 at each use, and know nothing of scales
    operations = comfy.ops.pick_operations(dtype, computes_in, load_device=device, disable_fast_fp8=dtype.itemsize > 1 or scaled)
    layers = Layers(operations, _attention, fused=True, dtype=dtype, lender=_lend)
    return replace(layers, dtype=computes_in, storage=dtype, scaled=scaled) if dtype.itemsize == 1 else layers


@contextmanager
def _lend(layer: Any, x: Tensor) -> Iterator[Weights | None]:
    """A Lender: what ComfyUI makes of a layer's weights for one use, wherever they lie, with its LoRAs."""
    if not (layer.comfy_cast_weights or layer.weight_function or layer.bias_function):
        with own_weights(layer, x) as weights:
            yield weights
    elif type(layer).forward_comfy_cast_weights not in _USED_AS_LENT:
        yield None
    else:
        weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
        try:
            yield weight, bias
        finally:
            comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


_USED_AS_LENT = {getattr(comfy.ops.disable_weight_init, kind).forward_comfy_cast_weights for kind in ("Linear", "Conv2d", "GroupNorm")}
"""Of layers that cast their weights and then do what torch's do. Those of --fast compute in 8 bits, and cast x too."""


def unet_layers(weight_dtype: str) -> tuple[Layers, torch.dtype]:
    """Layers for UNets whose weights are kept as ``weight_dtype`` (see WEIGHT_DTYPES) says, and what they compute in;
    their attention is yet to be chosen, see ``accelerate``.

    Raises InputError for a dtype that the device does not know.
    """
    device, best, dtype = comfy.model_management.get_torch_device(), compute_dtype(), WEIGHT_DTYPES[weight_dtype]
    if dtype is None:
        dtype = computes_in = best
    else:
        if dtype != torch.int8 and not comfy.model_management.supports_cast(device, dtype):  # which is asked of floats only
            others = "int8_scaled or auto" if dtype.itemsize == 1 else "auto"
            raise InputError(f"weight_dtype: this device ({device}) does not support {weight_dtype}. Choose {others}.")
        usable = {
            torch.float32: True,
            torch.bfloat16: best != torch.float32 and comfy.model_management.should_use_bf16(device),
            torch.float16: best != torch.float32 and comfy.model_management.should_use_fp16(device),
        }
        computes_in = dtype if usable.get(dtype) else best
    made = layers(dtype, computes_in, weight_dtype.endswith("_scaled"))
    if weight_dtype == "fp16_fp32" and computes_in == torch.float16:
        made = replace(made, stream=torch.float32)
    return _for_device(made, device), computes_in


_WIDEST_QUANTISED_HEAD = 128
"""Channels of a head that attention in 8 bits takes; core writes an error into the log at each call with more, and computes exactly."""


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    exact = {"low_precision_attention": False} if q.shape[-1] // heads > _WIDEST_QUANTISED_HEAD else {}
    return optimized_attention(q, k, v, heads=heads, **exact)


_FORCED_ATTENTION = ("split_cross", "quad_cross", "pytorch_cross", "sage", "flash", "ck")


def _for_device(layers: Layers, device: torch.device) -> Layers:
    """``layers`` with what is fastest here. An attention that the user forced on ComfyUI is the only one."""
    forced = args.force_upcast_attention or any(getattr(args, f"use_{name}_attention", False) for name in _FORCED_ATTENTION)
    attention = None if forced else {"ComfyUI": _attention}
    on_cpu = comfy.model_management.is_device_cpu(device)
    return acceleration.for_device(layers, capability_of(device), on_cpu=on_cpu, attention=attention)


_CHOOSING = "Choosing the fastest kernels. The first time on a GPU they are compiled, which takes up to a minute; then they are kept on the disk."


def accelerate(
    nets: Mapping[str, Any], layers: Layers, dtype: torch.dtype, compiled: bool, say: Callable[[str], None] = lambda text: None
) -> dict[nn.Module, Callable]:
    """Choose the backends for what the UNets, built with ``layers``, compute in ``dtype`` on this device; returns the compiled regions of
    the diffusion net where they are asked for. The reference net runs once a clip, which does not pay the compiler. say: takes a sentence."""
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_cuda(device):
        comfy.model_management.free_memory(2**30, device)
        say(_CHOOSING)
        acceleration.autotune_kernels(layers, nets["diffusion_net"].config, device, dtype)
    return acceleration.compiled_regions(nets["diffusion_net"]) if compiled else {}
