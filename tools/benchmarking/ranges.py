"""The largest values that the UNets of a checkpoint compute, against the range of float16: which weight_dtype is safe on a GPU without bfloat16.

    python -m tools.bench range models/memo/memo

In float32, on random inputs of ordinary size, at three noise levels.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from memo_modules.models.acceleration import REGIONS
from memo_modules.models.attention import FeedForward
from memo_modules.models.layers import Layers
from memo_modules.models.resnet import Downsample, Upsample
from memo_modules.types import NO_EMOTION
from memo_modules.weights.checkpoints import NETS, UNETS, load_net

LARGEST = torch.finfo(torch.float16).max
FRAMES, TIMESTEPS = 4, (999.0, 500.0, 20.0)
_HAPPY = 3


@dataclass(frozen=True)
class Largest:
    """net, module: where. stream: whether it is what residual blocks add up, which weight_dtype fp16_fp32 keeps in float32. value: the largest
    by magnitude."""

    net: str
    module: str
    stream: bool
    value: float


@torch.inference_mode()
def measure(checkpoint: Path, side: int, device: torch.device) -> list[Largest]:
    """One for each module with weights, for what goes into the last product of each feed-forward, and for what each region of a net adds up to.

    side: of the pictures, in pixels. Raises CheckpointError when the checkpoint cannot be loaded.
    """
    nets = {net: load_net(checkpoint, net, Layers(dtype=torch.float32)).to(device) for net in NETS}
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    latents = random(FRAMES, nets["reference_net"].config.in_channels, side // 8, side // 8)
    face = nets["image_proj"](random(1, nets["image_proj"].d_face))
    audio = nets["audio_proj"](random(FRAMES, nets["audio_proj"].d_in, 1, 1))
    rows: list[Largest] = []
    with _watched(nets["reference_net"], "reference_net", rows):
        past = nets["reference_net"](latents, face.expand(FRAMES, -1, -1))
    net = nets["diffusion_net"]
    memory = net.empty_memory()
    net.update_memory(past, memory, FRAMES)
    with _watched(net, "diffusion_net", rows):
        for timestep in TIMESTEPS:
            for label, reference in ((_HAPPY, past.select([0])), (NO_EMOTION, None)):
                emotion = net.emotion_modulations(torch.tensor([label], device=device), torch.float32)
                net(latents, torch.tensor([timestep], device=device), audio, net.spatial_contexts(face, reference), emotion, memory, FRAMES)
    return rows


@contextmanager
def _watched(net: nn.Module, name: str, rows: list[Largest]) -> Iterator[None]:
    """Within, what ``net`` computes is looked at; then ``rows`` has it."""
    largest: dict[tuple[str, bool], float] = {}

    def note(module: str, stream: bool, value: Tensor) -> None:
        key = module, stream
        largest[key] = max(largest.get(key, 0.0), value.abs().max().item())

    def after(path: str, stream: bool) -> Callable[..., None]:
        return lambda module, inputs, out: note(path, stream, out[0] if isinstance(out, tuple) else out)

    handles = []
    for path, module in net.named_modules():
        if isinstance(module, (*REGIONS, Downsample, Upsample)) or path == "conv_in":
            handles.append(module.register_forward_hook(after(path, stream=True)))
        elif isinstance(module, FeedForward):
            gated = f"{path}, gated"
            handles.append(module.net[2].register_forward_pre_hook(lambda module, inputs, gated=gated: note(gated, False, inputs[0])))
        elif not list(module.children()) and list(module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(after(path, path.endswith("conv_shortcut") or _is_resampler(net, path))))
    yield
    for handle in handles:
        handle.remove()
    rows += [Largest(name, module, stream, value) for (module, stream), value in largest.items()]


def _is_resampler(net: nn.Module, path: str) -> bool:
    return isinstance(net.get_submodule(path.rpartition(".")[0]), (Downsample, Upsample))


def verdict(rows: list[Largest]) -> str:
    """Which weight_dtype computes without leaving float16, twice over."""
    stream, inside = (max((row.value for row in rows if row.stream == of), default=0.0) for of in (True, False))
    if not inside < LARGEST / 2:
        return "fp32, or bf16 where the GPU has it: what single layers compute leaves float16, or comes near"
    return "fp16" if stream < LARGEST / 2 else "fp16_fp32: what the layers add up leaves float16, or comes near, and nothing else does"


def report(rows: list[Largest], most: int = 12) -> str:
    """The largest values, those of each net by kind, and what follows."""
    lines = [f"{'net':16}{'of float16':>12}{'largest':>12}  where"]
    for net in UNETS:
        for stream in (True, False):
            if own := [row for row in rows if row.net == net and row.stream == stream]:
                top = max(own, key=lambda row: row.value)
                kind = "added up by the layers" if stream else "within a layer"
                lines.append(f"{net:16}{top.value / LARGEST:12.4f}{top.value:12.4g}  {kind}: {top.module}")
    lines.append("The modules with the largest:")
    for row in sorted(rows, key=lambda row: -row.value)[:most]:
        lines.append(f"{row.net:16}{row.value / LARGEST:12.4f}{row.value:12.4g}  {row.module}")
    return "\n".join([*lines, f"On a GPU without bfloat16: weight_dtype {verdict(rows)}."])


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises ValueError for arguments out of range."""
    parser = argparse.ArgumentParser(prog="bench.py range", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a folder or a single file with the four nets")
    parser.add_argument("--side", type=int, default=256, metavar="PIXELS", help="of the pictures, a multiple of 64 (default: 256)")
    parser.add_argument("--device", default="cpu", help="(default: cpu)")
    arguments = parser.parse_args(argv)
    if arguments.side < 64 or arguments.side % 64:
        raise ValueError(f"--side: expected a multiple of 64 from 64 on, got {arguments.side}.")
    return arguments
