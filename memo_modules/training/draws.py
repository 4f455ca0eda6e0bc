"""Everything that is random in a training step, drawn before it, so that a step is a function of its batch and its draws.

The published trainer draws start frame, unconditional picture and unconditional audio once for a whole batch, which was
one clip; here each clip of a batch has its own.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from .schedule import FlowSchedule, TimestepSampling


@dataclass(frozen=True)
class Rates:
    """Probabilities in [0, 1], for each clip.

    start_frame: past frames are mid grey, as at the start of a video. start_reference: they are the reference picture, as
    in the sampler's first clip. The published training does not do this; but a net that has never seen a past with another mood than
    the clip's takes the mood from the past instead of the label. past_noise: not a rate, but the largest share of noise that is mixed into
    past latents, drawn for each clip from 0 up, so that a net does not take its mistakes in one clip for the truth in the next; the
    published training has none. uncond_img: reference and past latents are zeros.
    uncond_audio: the audio windows are zeros. emotion_drop: the label is "no emotion"; emotion_drop_per: drawn for each
    emotion-adaptive norm, as published, so that a clip practically never loses all of it, or once for a sample.
    unconditional: all conditions are missing at once, in the way of the sampler's unconditional branch, which has the past
    alone. face_drop: the reference net gets no face, as in the sampler, where under guidance pictures and faces of both
    branches alternate. The published training has neither, and what guidance leads away from it has never seen.
    """

    start_frame: float = 0.05
    start_reference: float = 0.0
    past_noise: float = 0.0
    uncond_img: float = 0.05
    uncond_audio: float = 0.05
    emotion_drop: float = 0.3
    emotion_drop_per: Literal["norm", "sample"] = "norm"
    unconditional: float = 0.0
    face_drop: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            if field.name != "emotion_drop_per" and not 0 <= getattr(self, field.name) <= 1:
                raise InputError(f"rates.{field.name}: expected a number in [0, 1], got {getattr(self, field.name)}.")


NO_RATES = Rates(start_frame=0, uncond_img=0, uncond_audio=0, emotion_drop=0)
"""Nothing is left out or disturbed."""


@dataclass(frozen=True)
class PictureDraws:
    """start_frame, start_reference: bool (b,), the first before the second. frames and reference: standard normal (b f c h w) and
    (b 1+n c h w), of the VAE's posteriors. past_noise: float32 (b,), shares. disturbance: standard normal (b n c h w)."""

    start_frame: Tensor
    start_reference: Tensor
    frames: Tensor
    reference: Tensor
    past_noise: Tensor
    disturbance: Tensor


@dataclass(frozen=True)
class StepDraws:
    """timesteps and sigmas: float32 (b,), see FlowSchedule. noise: standard normal (b f c h w). uncond_img, uncond_audio:
    bool (b,). emotion_drop: bool (norms b), the emotion-adaptive norms in forward order. unconditional, face_drop: bool (b,),
    None for nowhere."""

    timesteps: Tensor
    sigmas: Tensor
    noise: Tensor
    uncond_img: Tensor
    uncond_audio: Tensor
    emotion_drop: Tensor
    unconditional: Tensor | None = None
    face_drop: Tensor | None = None

    def to(self, device: torch.device | str) -> "StepDraws":
        there = {name: value for name, value in vars(self).items() if value is not None}
        return StepDraws(**{name: value.to(device) for name, value in there.items()})

    def rows(self, rows: Tensor) -> "StepDraws":
        """Those of the samples ``rows`` (n,)."""
        there = {name: value for name, value in vars(self).items() if value is not None}
        return StepDraws(**{name: value[:, rows] if name == "emotion_drop" else value[rows] for name, value in there.items()})


def draw_pictures(b: int, f: int, n: int, latent: tuple[int, int, int], rates: Rates, generator: torch.Generator) -> PictureDraws:
    """For b clips of f frames and n past frames; latent: (c, h, w) of one picture. On the CPU."""
    return PictureDraws(
        _flags(rates.start_frame, (b,), generator),
        _flags(rates.start_reference, (b,), generator),
        torch.randn((b, f, *latent), generator=generator),
        torch.randn((b, 1 + n, *latent), generator=generator),
        torch.rand(b, generator=generator) * rates.past_noise,
        torch.randn((b, n, *latent), generator=generator),
    )


def draw_step(
    shape: tuple[int, ...], norms: int, sampling: TimestepSampling, schedule: FlowSchedule, rates: Rates, generator: torch.Generator
) -> StepDraws:
    """For latents of ``shape`` (b f c h w) and a diffusion net of ``norms`` emotion-adaptive norms. On the CPU.

    One generator per process, seeded differently, or all processes train on the same noise.
    """
    b = shape[0]
    timesteps, sigmas = schedule.at(sampling.draw(b, generator))
    dropped = (norms if rates.emotion_drop_per == "norm" else 1, b)
    return StepDraws(
        timesteps,
        sigmas,
        torch.randn(shape, generator=generator),
        _flags(rates.uncond_img, (b,), generator),
        _flags(rates.uncond_audio, (b,), generator),
        _flags(rates.emotion_drop, dropped, generator).expand(norms, b),
        # not drawn where they never are, so that what is drawn after them stays what it was
        _flags(rates.unconditional, (b,), generator) if rates.unconditional else None,
        _flags(rates.face_drop, (b,), generator) if rates.face_drop else None,
    )


def draw_consecutive_steps(
    clips: int, shape: tuple[int, ...], norms: int, sampling: TimestepSampling, schedule: FlowSchedule, rates: Rates, generator: torch.Generator
) -> tuple[StepDraws, ...]:
    """draw_step for each of ``clips`` consecutive clips of latents of ``shape``, see consecutive_clips. They share one memory, so either
    all of them have their pictures and their face or none has."""
    first, *others = [draw_step(shape, norms, sampling, schedule, rates, generator) for _ in range(clips)]
    shared = {name: getattr(first, name) for name in ("uncond_img", "unconditional", "face_drop")}
    return first, *(replace(each, **shared) for each in others)


def _flags(rate: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) < rate
