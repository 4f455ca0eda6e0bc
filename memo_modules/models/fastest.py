"""Forms of one computation, of which the fastest on a device is found by running them.

Which kernel is best depends on the card, on torch's version and on the channels of a head, and not on what a table knew.
"""

import copy
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
_SECONDS = 0.02
_WORTH = 0.9  # of the first form's time: two that take as long are not to take turns, since each rounds in its own way


class Fastest:
    """A function, (x, ..) -> out, in several forms. Each number of channels gets the form that ``choose`` finds for it; where
    it has not, the first. chosen: name of the form by channels, see ``channels``."""

    def __init__(self, name: str, forms: Mapping[str, Callable[..., Tensor]]):
        self.name, self.forms = name, dict(forms)
        self.first = next(iter(self.forms))
        self.chosen: dict[int, str] = {}

    def __call__(self, *inputs) -> Tensor:
        return self.forms[self.chosen.get(channels(*inputs), self.first)](*inputs)

    @torch.inference_mode()
    def choose(self, sample: tuple) -> None:
        """Choose for as many channels as ``sample`` has, arguments of the function on the device in question.

        The first, unless another is faster by more than a tenth. A form that fails, or gives anything else than the first
        but for rounding, is left out.
        """
        if len(self.forms) == 1:
            return
        # copies, since a form may overwrite what it is given
        expected, seconds = self.forms[self.first](*copy.deepcopy(sample)).float(), {}
        for name, form in self.forms.items():
            try:
                difference = (form(*copy.deepcopy(sample)).float() - expected).norm() / expected.norm()
                if name == self.first or difference <= _ROUNDING[sample[0].dtype]:  # never where one of both is not finite
                    seconds[name] = _time(partial(form, *copy.deepcopy(sample)))
                else:
                    logger.warning("%s: %s differs by %.1e and is not used.", self.name, name, difference)
            except Exception as error:  # a compiler's errors have no common base
                reason = (str(error).strip() or type(error).__name__).split("\n")[0]
                logger.info("%s: %s does not run here (%s).", self.name, name, reason)
        best = min(seconds, key=seconds.get)
        self.chosen[channels(*sample)] = best if seconds[best] < _WORTH * seconds[self.first] else self.first
        times = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in seconds.items())
        logger.info("%s, %d channels: %s.", self.name, channels(*sample), times)


def channels(x: Tensor, *rest) -> int:
    """Those of x, or of one head or group of it where the last argument says how many it has."""
    return x.shape[-1] // (rest[-1] if rest else 1)


def _time(run: Callable[[], Tensor]) -> float:
    """Seconds of one call, of as many as fill a while."""
    _wait(run())
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < _SECONDS:
        for _ in range(4):
            out = run()
        _wait(out)
        calls += 4
    return (time.perf_counter() - start) / calls


def _wait(out: Tensor) -> None:
    out[(0,) * out.ndim].cpu()
