"""Timesteps of flow matching: the table they are drawn from, how they are drawn, and the weights of their losses.

Sampling schemes and weights: Scaling Rectified Flow Transformers (arXiv 2403.03206), section 3.1 and appendix.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

WEIGHTING_SCHEMES = ("logit_normal", "mode", "sigma_sqrt", "cosmap", "none")
"""The first two draw timesteps more densely somewhere and weight all alike, the next two draw evenly and weight; "none" does neither."""


@dataclass(frozen=True)
class FlowSchedule:
    """Noise levels, falling. timesteps: float32 (steps,) in (0, steps]; sigmas: float32 (steps,) in (0, 1], the share of
    noise at each."""

    timesteps: Tensor
    sigmas: Tensor

    @classmethod
    def make(cls, steps: int = 1000, shift: float = 1.0) -> "FlowSchedule":
        """Sigmas steps/steps .. 1/steps, of which a shift above 1 raises the middle. Raises InputError out of range."""
        if steps < 1 or shift <= 0:
            raise InputError(f"steps and shift: expected at least 1 and more than 0, got {steps} and {shift}.")
        sigmas = torch.arange(steps, 0, -1, dtype=torch.float32) / steps
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        return cls(sigmas * steps, sigmas)

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps and sigmas (b,) of u (b,) in [0, 1], 0 standing for the most noise.

        The published schemes can give exactly 1, one entry after the end of the table; here that means its last entry.
        """
        indices = (u * len(self.sigmas)).long().clamp(max=len(self.sigmas) - 1)
        return self.timesteps[indices], self.sigmas[indices]


@dataclass(frozen=True)
class TimestepSampling:
    """scheme: one of WEIGHTING_SCHEMES. logit_mean and logit_std: of the normal under "logit_normal". mode_scale: of
    "mode", in (-1, 1.75); above 0 the middle is denser, below 0 the ends. velocity: with the first two and "none", losses are
    those of the velocity and not of the clean latents, sigma² smaller: what is little to see is then learned as well as what is
    much. Published is without. Raises InputError for another scheme, or for one that weighs already."""

    scheme: str = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    velocity: bool = False

    def __post_init__(self):
        if self.scheme not in WEIGHTING_SCHEMES:
            raise InputError(f"weighting_scheme: expected one of {', '.join(WEIGHTING_SCHEMES)}, got {self.scheme!r}.")
        if self.velocity and self.scheme in ("sigma_sqrt", "cosmap"):
            raise InputError(f"weighting.velocity: expected false with {self.scheme}, which has weights of its own.")

    def draw(self, b: int, generator: torch.Generator | None = None) -> Tensor:
        """u (b,) float32 in [0, 1], from one draw of b values on the CPU, see FlowSchedule.at."""
        if self.scheme == "logit_normal":
            return torch.normal(self.logit_mean, self.logit_std, (b,), generator=generator).sigmoid()
        uniform = torch.rand(b, generator=generator)
        if self.scheme == "mode":
            return 1 - uniform - self.mode_scale * (torch.cos(math.pi * uniform / 2) ** 2 - 1 + uniform)
        return uniform

    def weights(self, sigmas: Tensor) -> Tensor:
        """Weights (b,) of the losses of samples at sigmas (b,)."""
        if self.scheme == "sigma_sqrt" or self.velocity:
            return sigmas**-2
        if self.scheme == "cosmap":
            return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
        return torch.ones_like(sigmas)


LOGIT_NORMAL = TimestepSampling()
"""What the published training draws from."""
