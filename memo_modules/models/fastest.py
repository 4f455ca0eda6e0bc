"""Forms of one computation, of which the fastest on a device is found by running them.

Which kernel is best depends on the card, on torch's version and on the channels of a head, and not on what a table knew.
"""

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
    """A function of heads, (q, .., heads) -> out, in several forms: q (.. heads·d). Each d gets the form that ``choose``
    finds for it; where it has not, the first. chosen: name of the form by d."""

    def __init__(self, name: str, forms: Mapping[str, Callable[..., Tensor]]):
        self.name, self.forms = name, dict(forms)
        self.first = next(iter(self.forms))
        self.chosen: dict[int, str] = {}

    def __call__(self, q: Tensor, *rest) -> Tensor:
        return self.forms[self.chosen.get(q.shape[-1] // rest[-1], self.first)](q, *rest)

    @torch.inference_mode()
    def choose(self, sample: tuple) -> None:
        """Choose for heads like those of ``sample``, arguments of the function on the device in question.

        The first, unless another is faster by more than a tenth. A form that fails, or gives anything else than the first
        but for rounding, is left out.
        """
        q, *_, heads = sample
        if len(self.forms) == 1:
            return
        expected, seconds = self.forms[self.first](*sample).float(), {}
        for name, form in self.forms.items():
            try:
                difference = (form(*sample).float() - expected).norm() / expected.norm()
                if name == self.first or difference <= _ROUNDING[q.dtype]:  # never where one of both is not finite
                    seconds[name] = _time(partial(form, *sample))
                else:
                    logger.warning("%s: %s differs by %.1e and is not used.", self.name, name, difference)
            except Exception as error:  # a compiler's errors have no common base
                reason = (str(error).strip() or type(error).__name__).split("\n")[0]
                logger.info("%s: %s does not run here (%s).", self.name, name, reason)
        head_dim, best = q.shape[-1] // heads, min(seconds, key=seconds.get)
        self.chosen[head_dim] = best if seconds[best] < _WORTH * seconds[self.first] else self.first
        times = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in seconds.items())
        logger.info("%s, %d channels a head: %s.", self.name, head_dim, times)


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
    out.view(-1)[:1].cpu()
