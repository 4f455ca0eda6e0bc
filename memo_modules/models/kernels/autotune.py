"""Backends of one computation, of which the fastest on a device is found by running them.

Which kernel is best depends on the GPU, on torch's version and on the channels of a head; no table knows it.
"""

import copy
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ...words import first_line

logger = logging.getLogger(__name__)

_ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
_SECONDS = 0.02
_ROUNDS, _CALLS = 5, 8  # on a GPU
_HEAD_START = 4_000_000  # cycles of a GPU's clock, about 2 ms: longer than a host takes to begin as many calls
_WORTH = 0.9  # of the first backend's time: two that take as long are not to take turns, since each rounds in its own way


AMD = (0, 0)
"""In place of a compute capability: a GPU that torch drives through ROCm."""


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of an NVIDIA GPU, AMD for one of theirs, None for other devices."""
    if device.type != "cuda":
        return None
    return AMD if torch.version.cuda is None else torch.cuda.get_device_capability(device)


class Autotuned:
    """A function, (x, ..) -> out, with several backends. Each number of channels gets the backend that ``tune`` finds for it; without
    that, the first. chosen: name of the backend by channels, see ``channels``."""

    def __init__(self, name: str, backends: Mapping[str, Callable[..., Tensor]]):
        self.name, self.backends = name, dict(backends)
        self.first = next(iter(self.backends))
        self.chosen: dict[int, str] = {}

    def __call__(self, *inputs) -> Tensor:
        return self.backends[self.chosen.get(channels(*inputs), self.first)](*inputs)

    @torch.inference_mode()
    def tune(self, sample: tuple, *others: tuple) -> None:
        """Choose for as many channels as ``sample`` has, arguments of the function on the device in question.

        The first, unless another is faster by more than a tenth. A backend that fails, or gives anything else than the first
        but for rounding, is left out, also where it does so for ``others`` alone: arguments of other shapes. Where the first
        fails, for want of memory, nothing is chosen.
        """
        if len(self.backends) == 1:
            return
        seconds: dict[str, float] = {}
        expected: list[Tensor] = []
        for name, backend in self.backends.items():
            try:
                found = [backend(*copy.deepcopy(each)).float() for each in (sample, *others)]  # a backend may overwrite what it is given
                expected = expected or found
                errors = [((mine - theirs).norm() / theirs.norm()).item() for mine, theirs in zip(found, expected, strict=True)]
                wrong = [error for error in errors if not error <= _ROUNDING[sample[0].dtype]]  # also where it is not finite
                if name == self.first or not wrong:
                    del found
                    seconds[name] = _time(partial(backend, *copy.deepcopy(sample)))
                else:
                    logger.warning("%s: %s differs by %.1e and is not used.", self.name, name, wrong[0])
            except Exception as error:  # a compiler's errors have no common base
                logger.info("%s: %s does not run here (%s).", self.name, name, first_line(error))
                if name == self.first:
                    return
        best = min(seconds, key=lambda name: seconds[name])
        self.chosen[channels(*sample)] = best if seconds[best] < _WORTH * seconds[self.first] else self.first
        times = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in seconds.items())
        logger.info("%s, %d channels: %s.", self.name, channels(*sample), times)


def channels(x: Tensor, *rest) -> int:
    """Those of x, or of one head or group of it where the last argument says how many it has."""
    return x.shape[-1] // (rest[-1] if rest else 1)


def _time(run: Callable[[], Tensor]) -> float:
    """Seconds of one call."""
    if run().is_cuda:
        return _time_on_card(run)
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < _SECONDS:
        run()
        calls += 1
    return (time.perf_counter() - start) / calls


def _time_on_card(run: Callable[[], Tensor]) -> float:
    """Those of the GPU alone. A host takes longer to begin a small kernel than the GPU to run it; but in a step it is ahead
    of the GPU, as here, where the GPU sleeps first."""
    rounds = []
    for _ in range(_ROUNDS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_HEAD_START)
        start.record()
        for _ in range(_CALLS):
            run()
        stop.record()
        stop.synchronize()
        rounds.append(start.elapsed_time(stop) / 1000 / _CALLS)
    return statistics.median(rounds)
