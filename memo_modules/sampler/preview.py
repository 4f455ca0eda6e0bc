"""A picture of the clip that is being sampled, without a decoder."""

import time

import torch
from torch import Tensor
from torch.nn import functional as F

from .solvers import Velocity

EVERY = 0.5
"""Seconds between two pictures: each waits for the GPU."""


class LatentPreview:
    """Small pictures of a running clip. A matrix makes colours of latents; it is fitted to the portrait, which is known as both, so it
    suits any VAE.

    Args:
        portrait: (1 3 H W) in [-1, 1].
        latents: (1 c h w), the portrait encoded.
    """

    def __init__(self, portrait: Tensor, latents: Tensor):
        colours = F.adaptive_avg_pool2d(portrait.float().cpu(), (latents.shape[-2], latents.shape[-1]))[0].flatten(1).T / 2 + 0.5
        self.matrix = torch.linalg.lstsq(_with_ones(latents[0].float().cpu()), colours, driver="gelsd").solution  # a flat portrait has no rank
        self.estimate: tuple[Tensor, Tensor, Tensor] | None = None
        self.shown = time.monotonic()

    def watch(self, velocity: Velocity) -> Velocity:
        """The same velocity, each of whose calls is remembered."""

        def watched(latents: Tensor, sigma: Tensor) -> Tensor:
            value = velocity(latents, sigma)
            self.estimate = latents, sigma, value
            return value

        return watched

    def picture(self, step: int) -> Tensor | None:
        """One frame (3 h w) in [0, 1] of what the clip would become by the last velocity, another one at each step so that it moves; None
        when there was one less than EVERY seconds ago."""
        if self.estimate is None or time.monotonic() - self.shown < EVERY:
            return None
        self.shown = time.monotonic()
        latents, sigma, velocity = self.estimate
        frame = step % len(latents)
        clean = (latents[frame] - sigma * velocity[frame]).float().cpu()
        return (_with_ones(clean) @ self.matrix).T.unflatten(1, clean.shape[1:]).clamp(0, 1)


def _with_ones(latents: Tensor) -> Tensor:
    """(h*w c+1) of (c h w)."""
    pixels = latents.flatten(1).T
    return torch.cat([pixels, torch.ones(len(pixels), 1)], dim=1)
