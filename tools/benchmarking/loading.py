"""What loading the four nets costs: time, compared with a plain read of the same files, and memory in addition to the weights."""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from safetensors.torch import save_file

from memo_modules.models.layers import Layers
from memo_modules.store.converting import to_single_files
from memo_modules.weights.checkpoints import NETS, load_net, weights_file
from tools.benchmarking import random_nets

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8_e4m3fn": torch.float8_e4m3fn}
CASES = (("folder", "bf16"), ("single file", "bf16"), ("folder", "fp16"), ("folder", "fp32"), ("folder", "fp8_e4m3fn"))
"""Layout, and dtype to load in, of files in bfloat16."""

_SAMPLE_S = 0.002
_BLOCK = 2**24


def measure(size: str, folder: Path | None) -> list[dict]:
    """A row for each of CASES. Writes random weights below ``folder``, by default the system's own for temporary files,
    and removes them afterwards."""
    place = Path(tempfile.mkdtemp(prefix="memo-load-", dir=folder))
    try:
        layouts = {"folder": place / "memo", "single file": place / "memo.safetensors"}
        write_checkpoint(layouts["folder"], size)
        to_single_files(layouts["folder"], layouts["single file"])
        return [case(layout, layouts[layout], dtype, size) for layout, dtype in CASES]
    finally:
        shutil.rmtree(place)


def write_checkpoint(folder: Path, size: str) -> None:
    """Random weights of the four nets, in bfloat16 and the published layout."""
    for net in NETS:
        (folder / net).mkdir(parents=True)
        (folder / net / "config.json").write_text(json.dumps(random_nets.options(net, size)), encoding="utf-8")
        module = random_nets.random_net(net, size, Layers(dtype=torch.bfloat16, device="cpu"))
        weights = {key: tensor.to(torch.bfloat16) for key, tensor in module.state_dict().items()}
        save_file(weights, weights_file(folder / net))


def case(layout: str, checkpoint: Path, dtype: str, size: str) -> dict:
    """Load in a process of its own, whose memory is watched from here."""
    files = [checkpoint] if checkpoint.is_file() else [weights_file(checkpoint / net) for net in NETS]
    file_bytes = sum(file.stat().st_size for file in files)
    _drop_from_cache(files)
    read_s = _read(files)
    _drop_from_cache(files)

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_load, args=(there, checkpoint, dtype))
    child.start()
    here.recv()
    before = memory(child.pid)
    load = _step(here, child.pid)
    touch = _step(here, child.pid)
    child.join()
    weights = touch.answer["weights"]
    peak = max(load.peak.private, touch.peak.private) - before.private
    return {
        "size": size,
        "layout": layout,
        "dtype": dtype,
        "file_gb": file_bytes * 1e-9,
        "weights_gb": weights * 1e-9,
        "plain_read_mb_s": file_bytes * 1e-6 / read_s,
        "load_s": load.answer["s"],
        "load_and_read_s": load.answer["s"] + touch.answer["s"],
        "load_and_read_mb_s": file_bytes * 1e-6 / (load.answer["s"] + touch.answer["s"]),
        "private_before_gb": before.private * 1e-9,
        "peak_private_gb": peak * 1e-9,
        "peak_over_weights": peak / weights,
        "mapped_gb": touch.peak.mapped * 1e-9,
    }


@dataclass(frozen=True)
class Memory:
    """Bytes of a process. private: anonymous and shared, which nobody else can take back. mapped: pages of files."""

    private: int
    mapped: int


@dataclass(frozen=True)
class Step:
    answer: dict
    peak: Memory


def memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    kib = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if key.startswith("Rss")}
    return Memory(1024 * (kib["RssAnon"] + kib["RssShmem"]), 1024 * kib["RssFile"])


def _step(connection: Connection, pid: int) -> Step:
    """Let the child take its next step; returns the peak of both kinds of memory meanwhile."""
    connection.send("go")
    private = mapped = 0
    while True:
        now = memory(pid)
        private, mapped = max(private, now.private), max(mapped, now.mapped)
        if connection.poll(_SAMPLE_S):
            return Step(connection.recv(), Memory(private, mapped))


def _load(connection: Connection, checkpoint: Path, dtype: str) -> None:
    """The child: load all nets as the pack's loader does, then read each weight once, as the first copy to a GPU would."""
    kept = DTYPES[dtype]
    unet = Layers(dtype=torch.bfloat16, storage=kept, fused=True) if kept.itemsize == 1 else Layers(dtype=kept, fused=True)
    connection.send("ready")
    connection.recv()
    start = time.perf_counter()
    nets = [load_net(checkpoint, net, Layers(dtype=torch.float32) if net.endswith("proj") else unet) for net in NETS]
    connection.send({"s": time.perf_counter() - start})
    connection.recv()
    start = time.perf_counter()
    tensors = [tensor.detach() for net in nets for tensor in (*net.parameters(), *net.buffers())]
    for tensor in tensors:
        tensor.view(torch.uint8).flatten()[:: os.sysconf("SC_PAGE_SIZE")].sum() if tensor.is_contiguous() else tensor.float().sum()
    connection.send({"s": time.perf_counter() - start, "weights": sum(tensor.nbytes for tensor in tensors)})


def _drop_from_cache(files: list[Path]) -> None:
    """Drop the files from the system's cache, so that they are read from disk."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(files: list[Path]) -> float:
    """Seconds to read them from start to end."""
    buffer, start = bytearray(_BLOCK), time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - start


def report(rows: list[dict]) -> str:
    head = f"{'layout':12}{'dtype':>12}{'weights GB':>12}{'peak GB':>9}{'of weights':>12}{'mapped GB':>11}"
    head += f"{'load s':>8}{'and read s':>12}{'MB/s':>8}{'plain read':>12}"
    lines = [
        f"{row['layout']:12}{row['dtype']:>12}{row['weights_gb']:12.3f}{row['peak_private_gb']:9.3f}{row['peak_over_weights']:12.3f}"
        f"{row['mapped_gb']:11.3f}{row['load_s']:8.2f}{row['load_and_read_s']:12.2f}{row['load_and_read_mb_s']:8.0f}{row['plain_read_mb_s']:12.0f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py load", description=__doc__)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--dir", type=Path, help="where to write the weights, 10 GB of them (default: where temporary files go)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the results to FILE")
    return parser.parse_args(argv)
