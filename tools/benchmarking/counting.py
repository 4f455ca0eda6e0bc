"""What a step asks of a GPU, counted on the meta device: FLOPs, bytes, launches, and the least time that they take.

    python -m tools.bench count

Each operation moves its inputs and outputs once. A kernel of the pack is one launch, its group norm three. Not in it: passes within an
operation, as a convolution makes one for its bias, and what no GPU reaches of its peaks.
"""

import argparse
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from memo_modules.models import acceleration
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.types import AttentionMemory
from tools.benchmarking import random_nets
from tools.benchmarking.step import KINDS, to_meta, with_kernels

PEAKS = {"H100": (989e12, 3.35e12), "4090": (165e12, 1.008e12), "3090": (71e12, 0.936e12), "3060": (25.5e12, 0.36e12)}
"""FLOP/s of dense products in bfloat16, and bytes/s of the memory, as the makers give them."""

_FACE_TOKENS, _AUDIO_TOKENS, _WIDTH = 4, 32, 768
_ATEN = torch.ops.aten
_MOVE_NOTHING = (_ATEN._unsafe_view, _ATEN.empty, _ATEN.empty_like, _ATEN.new_empty, _ATEN.empty_strided)


@dataclass(frozen=True)
class Operation:
    """kind: of the module, see KINDS; name: of the operation."""

    kind: str
    name: str
    flops: int
    moved: int
    launches: int

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The longer of its arithmetic and its moving."""
        return max(self.flops / flops_per_s, self.moved / bytes_per_s)


class Counter(TorchDispatchMode):
    """Notes the operations of a net whose kernels it has replaced by its own, which compute nothing."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.operations: list[Operation] = []
        self.kinds = ["rest"]
        with_kernels(net, self._attention, self._memory_attention, self._gate, self._norm)
        for kind, classes in KINDS.items():
            for module in net.modules():
                if isinstance(module, classes):
                    module.register_forward_pre_hook(lambda *_, kind=kind: self.kinds.append(kind))
                    module.register_forward_hook(lambda *_: self.kinds.pop() and None)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if function is _ATEN.convolution.default and args[0].is_contiguous(memory_format=torch.channels_last):
            out = out.contiguous(memory_format=torch.channels_last)  # as a GPU gives it
        if not (function.is_view or function._overloadpacket in _MOVE_NOTHING):
            read = args[1:] if function is _ATEN.copy_.default else args
            named = {name: value for name, value in kwargs.items() if name != "out"}
            count = flop_registry.get(function._overloadpacket)
            tensors = [leaf for leaf in tree_leaves((read, named, out)) if isinstance(leaf, Tensor)]
            self._add(str(function), tensors, count(*args, **kwargs, out_val=out) if count else 0)
        return out

    def _add(self, name: str, tensors: list[Tensor], flops: int, launches: int = 1) -> None:
        moved = sum(_distinct(tensor) * tensor.element_size() for tensor in tensors)
        self.operations.append(Operation(self.kinds[-1], name, flops, moved, launches))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        shapes = [(x.shape[0], heads, x.shape[1], x.shape[2] // heads) for x in (q, k, v)]
        self._add("attention", [q, k, v, q], sdpa_flop_count(*shapes))
        return _like(q)

    def _memory_attention(self, q: Tensor, k: Tensor, v: Tensor, memory: AttentionMemory, in_time: Tensor | None, ones: int, heads: int) -> Tensor:
        frames, d = q.shape[1], q.shape[3]
        flops = 2 * q.shape[:3].numel() * (d // heads * d + 2 * frames * d)
        out = _like(q, ones)
        self._add("memory attention", [q, k, v, memory.kv, memory.z, out], flops)
        return out

    def _gate(self, x: Tensor) -> Tensor:
        half = x.chunk(2, dim=-1)[0]
        self._add("gate", [x, half], 0)
        return _like(half)

    def _norm(self, x: Tensor, weight: Tensor, bias: Tensor, ahead: Tensor | None, eps: float, silu: bool, groups: int) -> Tensor:
        self._add("group norm", [x, x, x], 0, launches=3)
        return _like(x)


def _distinct(tensor: Tensor) -> int:
    """Numbers of a tensor that lie in places of their own: an expanded one is read from the cache."""
    return math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def _like(x: Tensor, more: int = 0) -> Tensor:
    """A new one of the shape of x, with so many more columns."""
    with _disable_current_modes():
        return torch.empty((*x.shape[:-1], x.shape[-1] + more), dtype=x.dtype, device=x.device)


def count_moved(
    net: nn.Module, method: str, args: tuple, kwargs: dict, flops_per_s: float, bytes_per_s: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes that one call moves, and the seconds that it takes at least; both by KINDS, "rest" and "whole"."""
    net = to_meta(net)
    counter = Counter(net)
    args, kwargs = to_meta(args), to_meta(kwargs)
    with torch.no_grad(), counter:  # in inference mode, what one operation is made of would not be seen
        getattr(net, method)(*args, **kwargs) if method != "forward" else net(*args, **kwargs)
    moved, seconds = (dict.fromkeys((*KINDS, "rest"), 0.0) for _ in range(2))
    for operation in counter.operations:
        moved[operation.kind] += operation.moved
        seconds[operation.kind] += operation.seconds(flops_per_s, bytes_per_s)
    return tuple(amounts | {"whole": sum(amounts.values())} for amounts in (moved, seconds))


@torch.no_grad()
def step_operations(side: int, branches: int, frames: int = random_nets.CLIP_FRAMES) -> list[Operation]:
    """Those of one step of the published net in bfloat16 on an NVIDIA GPU. side: of the picture in pixels; branches: 2 with guidance."""
    layers = acceleration.for_device(Layers(dtype=torch.bfloat16, device="meta"), (7, 5), on_cpu=False, off=("autotune",))
    net, reference_net = (random_nets.build(name, "full", layers) for name in ("diffusion_net", "reference_net"))
    assert isinstance(net, DiffusionNet)
    counter = Counter(net)
    Counter(reference_net)

    def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    latents = meta(branches * frames, 4, side // 8, side // 8)
    features = reference_net(latents, meta(branches * frames, _FACE_TOKENS, _WIDTH))
    memory = net.empty_memory()
    net.update_memory(features, memory, frames)
    spatial = net.spatial_contexts(meta(branches, _FACE_TOKENS, _WIDTH), features.select(list(range(branches))))
    emotion = net.emotion_modulations(meta(branches, dtype=torch.int), torch.bfloat16)
    audio = meta(branches * frames, _AUDIO_TOKENS, _WIDTH)
    biases = net.layer_biases(audio)
    counter.operations.clear()
    with counter:
        net(latents[:frames], meta(1, dtype=torch.float32), audio, spatial, emotion, memory, frames, biases=biases)
    return counter.operations


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises ValueError for arguments out of range."""
    parser = argparse.ArgumentParser(prog="bench.py count", description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=512, metavar="PIXELS", help="of the picture, a multiple of 64 (default: 512)")
    parser.add_argument("--branches", type=int, choices=(1, 2), default=2, help="2 with guidance (default)")
    arguments = parser.parse_args(argv)
    if arguments.side < 64 or arguments.side % 64:
        raise ValueError(f"--side: expected a multiple of 64 from 64 on, got {arguments.side}.")
    return arguments


def report(operations: list[Operation], rows: int = 30) -> str:
    """The sums, the floor on each of PEAKS, and the operations that move most."""
    flops, moved, launches = (sum(getattr(each, name) for each in operations) for name in ("flops", "moved", "launches"))
    lines = [f"One step: {flops / 1e12:.2f} TFLOP, {moved / 1e9:.1f} GB moved, {launches} launches. It takes at least"]
    for card, peaks in PEAKS.items():
        seconds = sum(each.seconds(*peaks) for each in operations)
        lines.append(f"  {1000 * seconds:7.1f} ms on an {card}" if card == "H100" else f"  {1000 * seconds:7.1f} ms on a {card}")
    by_name: dict[tuple[str, str], list[Operation]] = {}
    for each in operations:
        by_name.setdefault((each.kind, each.name), []).append(each)
    table = sorted(((sum(each.moved for each in group), key, group) for key, group in by_name.items()), reverse=True, key=lambda row: row[0])
    for amount, (kind, name), group in table[:rows]:
        tflop, count = sum(each.flops for each in group) / 1e12, sum(each.launches for each in group)
        lines.append(f"  {kind:18s} {name:36s} {tflop:7.3f} TFLOP {amount / 1e9:7.2f} GB {count:5d} launches")
    return "\n".join(lines)
