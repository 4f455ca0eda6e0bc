"""The device under test: marks in time that do not make it wait, its memory, and how fast it multiplies and copies."""

import platform
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from memo_modules.models.kernels.autotune import capability_of

GIB = 2**30

Mark = float | torch.cuda.Event


class Device:
    """A CUDA GPU or the CPU.

    cap_gib: what this process may allocate on the GPU, from its first allocation on. Raises ValueError when the
    device is not there or has less than that.
    """

    def __init__(self, kind: str, cap_gib: float | None = None):
        self.is_cuda = kind == "cuda"
        self.torch = torch.device(kind)
        if self.is_cuda and not torch.cuda.is_available():
            raise ValueError("--device cuda: this torch sees no CUDA device.")
        if cap_gib is not None:
            if not self.is_cuda:
                raise ValueError("--cap: only a CUDA device can be given a cap.")
            total = torch.cuda.get_device_properties(self.torch).total_memory
            if not 0 < cap_gib * GIB <= total:
                raise ValueError(f"--cap: expected more than 0 and at most the GPU's {total / GIB:.1f} GiB, got {cap_gib}.")
            torch.cuda.set_per_process_memory_fraction(cap_gib * GIB / total)

    @property
    def name(self) -> str:
        """The GPU's or the processor's own name."""
        if self.is_cuda:
            return torch.cuda.get_device_name(self.torch)
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor() or platform.machine()

    @property
    def capability(self) -> tuple[int, int] | None:
        """See autotune.capability_of."""
        return capability_of(self.torch)

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def mark(self) -> Mark:
        """A point in the device's time; on a GPU an event in its stream."""
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Mark, stop: Mark) -> float:
        """Time between two marks that the device has passed (synchronize first)."""
        return start.elapsed_time(stop) / 1000 if self.is_cuda else stop - start

    def median_seconds(self, call: Callable[[], object], repeats: int) -> float:
        """Median time of ``call``, after one that does not count."""
        call()
        marks = [self.mark()]
        for _ in range(repeats):
            call()
            marks.append(self.mark())
        self.synchronize()
        return statistics.median(self.seconds(start, stop) for start, stop in pairwise(marks))

    def reset_peak(self) -> None:
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> tuple[float, float] | None:
        """Most memory allocated and reserved on the GPU since ``reset_peak``; None on the CPU."""
        if not self.is_cuda:
            return None
        return torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB

    def allocated_gib(self) -> float | None:
        return torch.cuda.memory_allocated() / GIB if self.is_cuda else None

    def matmul_tflops(self, dtype: torch.dtype) -> float:
        """Rate of a square matrix product in ``dtype``; the GPU works at it long enough to reach its lasting clock."""
        n, repeats = (8192, 400) if self.is_cuda else (2048, 7)
        a, b = (torch.randn(n, n, device=self.torch).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        return 2e-12 * n**3 / self.median_seconds(lambda: torch.mm(a, b, out=out), repeats)

    def copy_gb_s(self) -> float:
        """Bytes read and written per second of a copy within the device's memory, in 10^9."""
        source = torch.zeros(GIB if self.is_cuda else GIB // 4, dtype=torch.uint8, device=self.torch)
        target = torch.ones_like(source)
        return 2e-9 * source.numel() / self.median_seconds(lambda: target.copy_(source), 20 if self.is_cuda else 7)

    def upload_gb_s(self) -> float | None:
        """Bytes per second that reach a GPU from pinned memory, in 10^9; None on the CPU."""
        if not self.is_cuda:
            return None
        source = torch.zeros(GIB // 4, dtype=torch.uint8, pin_memory=True)
        target = torch.empty_like(source, device=self.torch)
        return 1e-9 * source.numel() / self.median_seconds(lambda: target.copy_(source, non_blocking=True), 10)


def resident_gib() -> tuple[float | None, float | None]:
    """Memory of this process now, and the most that it ever was; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, None
    kib = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if key in ("VmRSS", "VmHWM")}
    return kib["VmRSS"] * 1024 / GIB, kib["VmHWM"] * 1024 / GIB
