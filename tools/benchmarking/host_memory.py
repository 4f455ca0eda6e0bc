"""What a video in low-memory mode takes of the RAM, counted and measured: bfloat16 files mapped, the motion memory of both branches, the features
of a clip's past and its frames, all at once and at full size. Nothing is computed: what a GPU would hand over is filled in.

    python -m tools.bench host
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from memo_modules.models.layers import Layers
from memo_modules.sampler.footprint import Footprint
from memo_modules.sampler.streaming import HostTensors, StreamedMemory
from memo_modules.types import AttentionMemory, SamplerSettings
from memo_modules.weights.checkpoints import NETS, load_net
from tools.benchmarking import random_nets
from tools.benchmarking.loading import memory, write_checkpoint

GIB = 2**30


def measure(size: str, folder: Path | None) -> list[dict]:
    """A row for motion memory as it is, and one in 8 bits. Writes random weights below ``folder``, by default the system's own for temporary
    files, and removes them afterwards."""
    place = Path(tempfile.mkdtemp(prefix="memo-host-", dir=folder))
    try:
        write_checkpoint(place / "memo", size)
        return [_row(place / "memo", size, eight_bits) for eight_bits in (False, True)]
    finally:
        shutil.rmtree(place)


def _row(checkpoint: Path, size: str, eight_bits: bool) -> dict:
    """Measured in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(there, checkpoint, size, eight_bits))
    process.start()
    try:
        counted, measured, mapped = here.recv()
    finally:
        process.kill()
        process.join()
    whole = sum(counted.values())
    return {
        "size": size,
        "eight_bits": eight_bits,
        "counted_gib": {name: value / GIB for name, value in counted.items()},
        "counted_whole_gib": whole / GIB,
        "measured_gib": measured / GIB,
        "mapped_gib": mapped / GIB,
        "difference": measured / whole - 1,
    }


def _hold(connection: Connection, checkpoint: Path, size: str, eight_bits: bool) -> None:
    """The child: hold all that a video holds in RAM."""
    torch.zeros(1).add_(1)
    before = memory(os.getpid()).private
    unet, projection = Layers(dtype=torch.bfloat16, fused=True), Layers(dtype=torch.float32)
    nets = {net: load_net(checkpoint, net, projection if net.endswith("proj") else unet) for net in NETS}
    for net in nets.values():
        for tensor in net.state_dict().values():
            tensor.flatten()[:: os.sysconf("SC_PAGE_SIZE") // tensor.itemsize].float().sum()  # is read, as the first copy to a GPU would
    side, settings = random_nets.latent_side(size), SamplerSettings()
    footprint = Footprint(nets["diffusion_net"].config, (side, side), settings)
    plan = footprint.plan({"reference": 0, "diffusion": 0}, float("inf"), "low")
    memories = StreamedMemory.split(len(footprint.memory_heads()), settings.branches, torch.device("cpu"), plan.resident_share, eight_bits)
    for each in memories:
        for number, (heads, d) in enumerate(footprint.memory_heads()):
            each[number] = (AttentionMemory(torch.ones(heads, d, d, dtype=torch.bfloat16), torch.ones(heads, d, dtype=torch.bfloat16)),)
    counted = footprint.in_ram(plan, eight_bits)
    features = HostTensors([torch.ones(counted["features"] // 2, dtype=torch.bfloat16)], torch.device("cpu"))
    frames = torch.ones(counted["frames"] // 4)
    counted["weights"] = _copied(nets)
    now = memory(os.getpid())
    connection.send((counted, now.private - before, now.mapped))
    connection.recv()
    del features, frames, memories


def _copied(nets: dict) -> int:
    """Bytes of weights that are not mapped: projections kept in another dtype than their file's, and linears that are joined."""
    joined = [tensor for name, net in nets.items() for key, tensor in net.named_parameters() if name.endswith("proj") or "qkv" in key]
    return sum(tensor.nbytes for tensor in joined)


def report(rows: list[dict]) -> str:
    lines = []
    for row in rows:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in row["counted_gib"].items())
        kind = "in 8 bits" if row["eight_bits"] else "as it is"
        lines.append(
            f"motion memory {kind}: counted {row['counted_whole_gib']:.2f} GiB ({parts}), measured {row['measured_gib']:.2f} GiB "
            f"({100 * row['difference']:+.1f} %), and {row['mapped_gib']:.2f} GiB of files mapped"
        )
    return "\n".join(lines)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py host", description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--dir", type=Path, help="where to write the weights, 5 GB of them (default: where temporary files go)")
    return parser.parse_args(argv)
