"""From noise to latents along the flow: the published Euler steps, cheaper ones, and the interface of any other solver."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import InputError
from ..values import FLOATS

Velocity = Callable[[Tensor, Tensor], Tensor]
"""From latents (f c h w) float32 and sigma (1,) float32 in [0, 1], on one device, to d latents / d sigma in the shape of the latents."""

Solver = Callable[[Velocity, Tensor, Tensor, Callable[[int], None]], Tensor]
"""``solver(velocity, noise, sigmas, after_step)``: from noise (f c h w) at sigmas[0] to latents at sigmas[-1]. The sigmas fall, and there is one
more than there are steps. ``after_step`` is called with the number of steps done, and may raise."""


def flow_sigmas(steps: int) -> Tensor:
    """Sigmas of the published sampler, float32 (steps + 1,): evenly from 1 to 1/1000, then 0.

    Raises InputError below one step.
    """
    if steps < 1:
        raise InputError(f"steps: expected at least 1, got {steps}.")
    sigmas = torch.linspace(1, 1 / 1000, steps, dtype=torch.float64)
    return torch.cat([sigmas, torch.zeros(1)]).float()


def even_sigmas(steps: int) -> Tensor:
    """Sigmas float32 (steps + 1,) evenly from 1 to 0: as the published ones with one step more, whose last, from 1/1000 to 0,
    changes nothing to be seen. Raises InputError below one step."""
    if steps < 1:
        raise InputError(f"steps: expected at least 1, got {steps}.")
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).float()


def check_sigmas(sigmas: Tensor) -> None:
    """Raises InputError unless these are two or more falling numbers, none above 1 or below 0."""
    if sigmas.dtype not in FLOATS:
        raise InputError(f"sigmas: expected floating-point numbers that fall from 1 to 0, got {str(sigmas.dtype).removeprefix('torch.')}.")
    sigmas = sigmas.float()
    falls = sigmas.ndim == 1 and len(sigmas) > 1 and bool((sigmas[1:] < sigmas[:-1]).all())
    if not falls or not 0 <= float(sigmas[-1]) < float(sigmas[0]) <= 1:
        shown = ", ".join(f"{value:g}" for value in sigmas.flatten()[:4].tolist())
        raise InputError(
            f"sigmas: expected at least two falling numbers between 1 and 0, got {sigmas.numel()}: {shown} ... "
            "MEMO is a flow model: set sigma_max to 1 in the scheduler node."
        )


def euler(velocity: Velocity, noise: Tensor, sigmas: Tensor, after_step: Callable[[int], None]) -> Tensor:
    """The published solver: one straight step from each sigma to the next."""
    latents = noise
    for step, (sigma, following) in enumerate(pairwise(sigmas.tolist()), start=1):
        latents = latents + (following - sigma) * velocity(latents, sigmas[step - 1 : step])
        after_step(step)
    return latents


def adams_bashforth(velocity: Velocity, noise: Tensor, sigmas: Tensor, after_step: Callable[[int], None]) -> Tensor:
    """Second order for one pass a step: a straight line through the last two velocities. The first step is Euler's."""
    latents, values = noise, sigmas.tolist()
    before, last_size = None, 0.0
    for step, (sigma, following) in enumerate(pairwise(values), start=1):
        size, now = following - sigma, velocity(latents, sigmas[step - 1 : step])
        bend = 0 if before is None else size / (2 * last_size) * (now - before)
        latents = latents + size * (now + bend)
        before, last_size = now, size
        after_step(step)
    return latents


SCHEDULES: dict[str, Callable[[int], Tensor]] = {"published": flow_sigmas, "even": even_sigmas}

SOLVERS: dict[str, Solver] = {"euler": euler, "adams_bashforth": adams_bashforth}
