"""The noise from which clips are made: drawn in float32 on the CPU, so that it is the same on every device."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

NOISES = ("independent", "smooth")

SPAN = 4
"""How many clips share a drawing of smooth noise. More make the borders softer, but the face repeats itself sooner: with 4, the next clip but
one shares a third of what decides how a clip moves, and the fourth nothing."""


def clip_noise(kind: str, generator: torch.Generator, clip: int, frames: int, size: Sequence[int]) -> Tensor:
    """Noise (f c h w) of the clip after ``clip`` others, size: (c, h, w). The generator is left one drawing further.

    independent: a drawing for each clip, as in the published sampler. smooth: part of how a clip looks comes from its noise, and changes
    abruptly where two clips meet; so the noise continues across the border, mirrored, and turns into another over SPAN clips.
    Within a clip both are the same normal noise, independent from frame to frame.
    """
    if kind == "independent":
        return _drawing(generator, frames, size)
    drawings = [_drawing(generator, frames, size)]
    after_one = generator.get_state()
    drawings += [_drawing(generator, frames, size) for _ in range(SPAN - 1)]
    generator.set_state(after_one)
    # A window in the shape of a cosine moves over the drawings; the squares of its weights add up to one everywhere.
    time = (torch.arange(frames).view(-1, 1, 1, 1) + 0.5) / frames
    centres = range(1 - SPAN // 2, 1 + SPAN // 2)
    if clip % 2:
        drawings = [drawing.flip(0) for drawing in drawings]
    weighted = (torch.cos(math.pi * (time - centre) / SPAN) * drawing for centre, drawing in zip(centres, drawings, strict=True))
    return sum(weighted, start=torch.zeros(())) / math.sqrt(SPAN / 2)


def _drawing(generator: torch.Generator, frames: int, size: Sequence[int]) -> Tensor:
    # channels before frames, as the published sampler draws
    c, h, w = size
    return rearrange(torch.randn((c, frames, h, w), generator=generator), "c f h w -> f c h w")
