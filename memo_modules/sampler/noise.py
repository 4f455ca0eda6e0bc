"""The noise that clips are made from: drawn in float32 on the CPU, the same on every device."""

import math

import torch
from einops import rearrange
from torch import Tensor

NOISES = ("independent", "smooth")

SPAN = 4
"""Clips that share a drawing of smooth noise. More make clips meet more softly, and the face repeat itself sooner: of what
decides how a clip moves, the next but one has a third, the fourth nothing."""


def clip_noise(kind: str, generator: torch.Generator, clip: int, frames: int, size: tuple[int, int, int]) -> Tensor:
    """Noise (f c h w) of the clip behind ``clip`` others, size: (c, h, w). The generator is left one drawing further.

    independent: a drawing for each clip, as the published sampler has it. smooth: what a clip looks like, beside what it
    shows, comes from its noise, and where two clips meet that changes at once; so the noise goes on over the border, mirrored,
    and turns into another over SPAN clips. Within a clip both are the same normal noise, each frame apart.
    """
    if kind == "independent":
        return _drawing(generator, frames, size)
    drawings = [_drawing(generator, frames, size)]
    behind = generator.get_state()
    drawings += [_drawing(generator, frames, size) for _ in range(SPAN - 1)]
    generator.set_state(behind)
    # A window of cosine shape passes over the drawings; the squares of its weights add up to one wherever it stands.
    time = (torch.arange(frames).view(-1, 1, 1, 1) + 0.5) / frames
    centres = range(1 - SPAN // 2, 1 + SPAN // 2)
    if clip % 2:
        drawings = [drawing.flip(0) for drawing in drawings]
    return sum(torch.cos(math.pi * (time - centre) / SPAN) * drawing for centre, drawing in zip(centres, drawings)) / math.sqrt(SPAN / 2)


def _drawing(generator: torch.Generator, frames: int, size: tuple[int, int, int]) -> Tensor:
    # channels before frames, as the published sampler draws
    c, h, w = size
    return rearrange(torch.randn((c, frames, h, w), generator=generator), "c f h w -> f c h w")
