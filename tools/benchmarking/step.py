"""One step by kind of module: its seconds, its FLOPs, and what it moves."""

import copy
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from memo_modules.models.attention import GatedProjection, SelfAttention
from memo_modules.models.audio_module import AudioModule
from memo_modules.models.kernels.geglu import GegluFunction, geglu
from memo_modules.models.kernels.group_norm_silu import GroupNormSiluFunction
from memo_modules.models.kernels.memory_attention import MemoryAttentionFunction, memory_attention
from memo_modules.models.layers import AttentionFunction, Layers, sdpa
from memo_modules.models.motion import MemoryLinearAttention, MotionModule
from memo_modules.models.resnet import Downsample, ResnetBlock, Upsample
from memo_modules.models.transformer import SpatialTransformer
from tools.benchmarking import random_nets
from tools.benchmarking.device import Device, Mark

KINDS = {
    "resnets": (ResnetBlock,),
    "spatial_attention": (SpatialTransformer,),
    "audio": (AudioModule,),
    "motion": (MotionModule,),
    "resamplers": (Downsample, Upsample),
}


@contextmanager
def recorded(net: nn.Module, method: str) -> Iterator[list[tuple[tuple, dict]]]:
    """The arguments of every call of a method of ``net``, so that it can be called again alone."""
    calls, function = [], getattr(net, method)

    def call(*args, **kwargs):
        calls.append((args, kwargs))
        return function(*args, **kwargs)

    setattr(net, method, call)
    try:
        yield calls
    finally:
        delattr(net, method)


@torch.inference_mode()
def step_by_kind(net: nn.Module, calls: list[tuple[tuple, dict]], device: Device, repeats: int) -> list[dict[str, float]]:
    """Seconds of each of the calls of the diffusion net that are a step, by KINDS, "rest" and "whole"; medians over ``repeats``
    steps. Streamed memory comes ahead of its use in the order of a step alone."""
    marks: list[tuple[str, Mark]] = []

    @torch.compiler.disable  # a hook is not part of a compiled region
    def mark(kind: str) -> None:
        marks.append((kind, device.mark()))

    handles = []
    for kind, classes in KINDS.items():
        for module in net.modules():
            if isinstance(module, classes):
                handles.append(module.register_forward_pre_hook(lambda *_, kind=kind: mark(kind)))
                handles.append(module.register_forward_hook(lambda *_, kind=kind: mark(kind)))
    runs: list[list[dict[str, float]]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for run, (args, kwargs) in zip(runs, calls, strict=True):
            marks.clear()
            start = device.mark()
            net(*args, **kwargs)
            stop = device.mark()
            if repeat == 0:  # does not count
                continue
            device.synchronize()
            seconds = dict.fromkeys(KINDS, 0.0)
            for (kind, entered), (_, left) in zip(marks[::2], marks[1::2], strict=True):
                seconds[kind] += device.seconds(entered, left)
            whole = device.seconds(start, stop)
            run.append(seconds | {"rest": whole - sum(seconds.values()), "whole": whole})
    for handle in handles:
        handle.remove()
    return [{kind: statistics.median(each[kind] for each in run) for kind in run[0]} for run in runs]


@torch.inference_mode()
def profile(net: nn.Module, args: tuple, kwargs: dict, device: Device, operations: int = 40) -> str:
    """The operations of one call of the diffusion net that take most time, and the kernels that they run."""
    net(*args, **kwargs)
    device.synchronize()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * device.is_cuda
    with torch.profiler.profile(activities=activities, record_shapes=True) as profiler:
        net(*args, **kwargs)
        device.synchronize()
    order = f"self_{'cuda' if device.is_cuda else 'cpu'}_time_total"
    averages = (profiler.key_averages(), profiler.key_averages(group_by_input_shape=True))
    return "\n".join(each.table(sort_by=order, row_limit=operations, max_name_column_width=80) for each in averages)


@torch.inference_mode()
def count_flops(net: nn.Module, method: str, args: tuple, kwargs: dict) -> dict[str, int]:
    """FLOPs of one call by KINDS, "rest" and "whole", counted on the meta device: on the CPU attention counts as none."""
    net = with_kernels(to_meta(net), sdpa, memory_attention, geglu, None)
    with FlopCounterMode(display=False) as counter:
        call = net if method == "forward" else getattr(net, method)  # called as a module, it names its parts in the counts
        call(*to_meta(args), **to_meta(kwargs))
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    root = type(net).__name__
    flops = dict.fromkeys(KINDS, 0)
    for name, module in net.named_modules():
        for kind, classes in KINDS.items():
            if isinstance(module, classes):
                flops[kind] += counts.get(f"{root}.{name}", 0)
    whole = counter.get_total_flops()
    return flops | {"rest": whole - sum(flops.values()), "whole": whole}


def with_kernels(
    net: nn.Module, attention: AttentionFunction, memory: MemoryAttentionFunction, gate: GegluFunction, norm: GroupNormSiluFunction | None
) -> nn.Module:
    """``net`` with these in place of its kernels, and without compiled regions."""
    if hasattr(net, "compiled"):
        net.compiled = {}
    for module in net.modules():
        if isinstance(module, SelfAttention):
            module.attention = attention
        elif isinstance(module, MemoryLinearAttention):
            module.attention = memory
        elif isinstance(module, GatedProjection):
            module.geglu = gate
        elif isinstance(module, nn.GroupNorm):
            module.kernel = norm
    return net


@torch.inference_mode()
def vae_flops(size: str) -> dict[str, dict[str, int]]:
    """FLOPs of the VAE per frame, by stage."""
    autoencoder = random_nets.build("vae", size, Layers(device="meta"))
    pictures = torch.empty(1, 3, random_nets.PICTURE[size], random_nets.PICTURE[size], device="meta")
    flops = {}
    for stage, run in (("vae_encode", lambda x: autoencoder.encode(x).latent_dist.mode()), ("vae_decode", lambda x: autoencoder.decode(x).sample)):
        with FlopCounterMode(display=False) as counter:
            pictures = run(pictures)  # the latents of the first are what the second takes
        flops[stage] = {"whole": counter.get_total_flops()}
    return flops


def to_meta(value: Any) -> Any:
    """A copy of ``value`` whose tensors have shapes and no memory."""
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta")
    if isinstance(value, nn.Module):
        tensors = {id(tensor): nn.Parameter(to_meta(tensor), False) for tensor in value.parameters()}
        tensors |= {id(tensor): to_meta(tensor) for tensor in value.buffers()}
        return copy.deepcopy(value, tensors)
    if isinstance(value, tuple):
        return tuple(to_meta(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str):  # lists, and what lies in host memory
        return [to_meta(item) for item in value]
    if isinstance(value, dict):
        return {key: to_meta(item) for key, item in value.items()}
    if is_dataclass(value):
        return replace(value, **{field.name: to_meta(getattr(value, field.name)) for field in fields(value)})
    return value
