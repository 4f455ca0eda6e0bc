"""The training objective: flow matching with the loss on the clean latents. Published in finetune.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..sampler.sampling import MemoNets
from ..types import NO_EMOTION, ReferenceFeatures
from ..vae import DiffusersVAE
from .draws import PictureDraws, StepDraws
from .regions import PastFrames, checkpointed, direct
from .schedule import LOGIT_NORMAL, TimestepSampling

ROBUST_THRESHOLD = 0.1


Pasts = Sequence[tuple[PastFrames, ...]]
"""For each motion module in forward order: the past frames from which a clip's memory is made."""


@dataclass(frozen=True)
class TrainingBatch:
    """Clips as latents, scaled as the VAE's config says.

    latents: float32 (b f c h w). reference_latents: float32 (b 1+n c h w), the reference picture, then n past frames, oldest
    first. face_emb: (b d). audio_emb: (b f window layers d). audio_emotion: int64 (b,), indices into EMOTIONS.

    If a sample has several consecutive clips, f counts the frames of all of them, past frames are those before the first one, and
    audio_emotion is (b clips); see consecutive_clips.
    """

    latents: Tensor
    reference_latents: Tensor
    face_emb: Tensor
    audio_emb: Tensor
    audio_emotion: Tensor

    def to(self, device: torch.device | str) -> "TrainingBatch":
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def rows(self, rows: Tensor) -> "TrainingBatch":
        """The samples ``rows`` (n,)."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def clip(self, k: int, clips: int) -> "TrainingBatch":
        """Clip k of ``clips`` consecutive ones. The past frames of every clip after the first are the last of the clip before, as many as there
        were before the first, but at most a clip, as in the sampler."""
        f = self.latents.shape[1] // clips
        frames, reference = slice(k * f, (k + 1) * f), self.reference_latents
        if k > 0:
            n = min(reference.shape[1] - 1, f)
            reference = torch.cat([reference[:, :1], self.latents[:, k * f - n : k * f]], dim=1)
        emotion = self.audio_emotion if self.audio_emotion.ndim == 1 else self.audio_emotion[:, k]
        return TrainingBatch(self.latents[:, frames], reference, self.face_emb, self.audio_emb[:, frames], emotion)


@dataclass(frozen=True)
class TrainingLoss:
    """loss: the scalar to call backward on. per_sample, weighted: float32 (b,), before and after weights, detached.
    kept: bool (b,), the samples over which the loss is the mean."""

    loss: Tensor
    per_sample: Tensor
    weighted: Tensor
    kept: Tensor

    @property
    def mask_rate(self) -> Tensor:
        """Share of samples that the robust loss left out, float32 () in [0, 1]."""
        return 1 - self.kept.float().mean()


def encode_batch(vae: DiffusersVAE, sample: dict[str, Tensor], draws: PictureDraws) -> TrainingBatch:
    """Encode a collated batch of ClipDataset with the VAE, drawing samples from its posteriors (inference takes their means)."""
    return TrainingBatch(
        _encode(vae, sample["pixel_values"], draws.frames),
        with_past_noise(_encode(vae, with_starts(sample["pixel_values_ref_img"], draws), draws.reference), draws),
        sample["face_emb"],
        sample["audio_emb"],
        sample["audio_emotion"],
    )


def with_starts(pictures: Tensor, draws: PictureDraws, grey: Tensor | float = 0.0) -> Tensor:
    """pictures (b 1+n c h w) with the past frames of clips at the start of a video. ``grey`` (c h w) is mid grey; by default that of pixels
    in [-1, 1]."""
    reference = pictures[:, :1]
    past = torch.where(_per_sample(draws.start_reference, pictures), reference, pictures[:, 1:])
    past = torch.where(_per_sample(draws.start_frame, pictures), grey, past)
    return torch.cat([reference, past], dim=1)


def with_past_noise(latents: Tensor, draws: PictureDraws) -> Tensor:
    """latents (b 1+n c h w) of the reference picture and of past frames, these mixed with noise, see Rates."""
    shares = _per_sample(draws.past_noise, latents)
    return torch.cat([latents[:, :1], (1 - shares) * latents[:, 1:] + shares * draws.disturbance], dim=1)


def _encode(vae: DiffusersVAE, pixels: Tensor, noise: Tensor) -> Tensor:
    mean, std = vae.posterior(pixels.flatten(0, 1))
    return (mean + std * noise.flatten(0, 1).to(std)).float().unflatten(0, pixels.shape[:2])


def training_loss(
    nets: MemoNets,
    batch: TrainingBatch,
    draws: StepDraws,
    weighting: TimestepSampling = LOGIT_NORMAL,
    robust_threshold: float | None = ROBUST_THRESHOLD,
    checkpointing: bool = False,
    pasts: Pasts | None = None,
    places: Tensor | None = None,
) -> TrainingLoss:
    """The loss of one batch. Nets, batch and draws on one device; parameters that require a gradient get it.

    robust_threshold: samples with a weighted loss above it are left out, None: none is. checkpointing: activations are
    computed again in the backward pass, region by region, with the same gradients. pasts: see predict_velocity. places: see flow_loss.
    """
    noisy = add_noise(batch.latents, draws)
    velocity = predict_velocity(nets, batch, draws, noisy, checkpointing, pasts)
    return flow_loss(velocity, noisy, batch.latents, draws.sigmas, weighting, robust_threshold, places)


def add_noise(latents: Tensor, draws: StepDraws) -> Tensor:
    """Latents (b f c h w) on the straight line to the noise. Sigmas stay float32: in bfloat16 0.999 would be 1."""
    sigmas = _per_sample(draws.sigmas, latents)
    return sigmas * draws.noise + (1 - sigmas) * latents


def consecutive_clips(nets: MemoNets, batch: TrainingBatch, draws: Sequence[StepDraws]) -> Iterator[tuple[TrainingBatch, StepDraws, Pasts]]:
    """Each clip of samples of ``len(draws)`` consecutive ones, with its draws and its pasts, for training_loss. The memory
    is carried from clip to clip as in the sampler; the published training only ever sees the first.

    The loss of the samples is the mean of the losses. Call backward on each, times its share, before asking for the next clip: then only one
    clip's graph exists at a time, and of earlier clips the reference features of their past.
    """
    pasts: Pasts | None = None
    for k, draw in enumerate(draws):
        clip = batch.clip(k, len(draws))
        past = past_frames(nets, clip, draw)
        pasts = past if pasts is None else [(*before, *own) for before, own in zip(pasts, past, strict=True)]
        yield clip, draw, pasts


@torch.no_grad()
def past_frames(nets: MemoNets, batch: TrainingBatch, draws: StepDraws) -> Pasts:
    """The past frames of each clip in ``batch``, as its whole past."""
    pictures = _pictures(nets, batch, draws)[:, 1:]
    n = pictures.shape[1]
    face_tokens = _face_tokens(nets, batch, draws.face_drop)
    features = nets.reference_net(pictures.flatten(0, 1), face_tokens.repeat_interleave(n, dim=0))
    return [(PastFrames(layer, n),) for layer in features.layers]


def predict_velocity(
    nets: MemoNets, batch: TrainingBatch, draws: StepDraws, noisy: Tensor, checkpointing: bool = False, pasts: Pasts | None = None
) -> Tensor:
    """The velocity of ``noisy`` (b f c h w), float32 in its shape, each clip with its own conditioning.

    Every clip has its reference picture: a picture of zero latents where ``uncond_img`` says so, none where it is unconditional. Its
    memory is made from ``pasts``, by default its own past frames only, and no gradient flows through it.
    """
    pasts = past_frames(nets, batch, draws) if pasts is None else pasts
    if draws.unconditional is None or not draws.unconditional.any():
        return _velocity(nets, batch, draws, noisy, checkpointing, pasts, unconditional=0)
    rows = draws.unconditional.long().argsort(descending=True, stable=True)  # without a picture come first, see spatial_contexts
    pasts = [tuple(past.rows(rows) for past in each) for each in pasts]
    count = int(draws.unconditional.sum())
    velocity = _velocity(nets, batch.rows(rows), draws.rows(rows), noisy[rows], checkpointing, pasts, count)
    return velocity[rows.argsort()]


def _velocity(nets: MemoNets, batch: TrainingBatch, draws: StepDraws, noisy: Tensor, checkpointing: bool, pasts: Pasts, unconditional: int) -> Tensor:
    """The same, the first ``unconditional`` clips being those without conditions."""
    b, f = noisy.shape[:2]
    run, dtype, net = checkpointed if checkpointing else direct, nets.dtype, nets.diffusion_net
    # zeros pass through the projection; in the sampler the unconditional tokens themselves are zeros
    windows = batch.audio_emb.float().masked_fill(_per_sample(draws.uncond_audio, batch.audio_emb), 0)
    audio_tokens = nets.audio_proj(windows.flatten(0, 1)).to(dtype)
    reference = nets.reference_net(_pictures(nets, batch, draws)[:, 0], _face_tokens(nets, batch, draws.face_drop), run)
    emotion = torch.where(draws.emotion_drop, NO_EMOTION, batch.audio_emotion)
    face_tokens = _face_tokens(nets, batch, draws.unconditional)
    if unconditional:
        without = torch.arange(b, device=noisy.device) < unconditional
        audio_tokens = audio_tokens.masked_fill(without.repeat_interleave(f)[:, None, None], 0)
        emotion = emotion.masked_fill(without, NO_EMOTION)
    seen = ReferenceFeatures(tuple(layer[unconditional:] for layer in reference.layers)) if unconditional < b else None
    velocity = net(
        noisy.to(dtype).flatten(0, 1),
        draws.timesteps,
        audio_tokens,
        net.spatial_contexts(face_tokens, seen, guided=b - unconditional),
        net.emotion_modulations(emotion, dtype),
        pasts,
        f,
        run,
    )
    if seen is None:  # every parameter has a gradient, of zeros, in every process
        velocity = velocity + 0 * sum(layer.sum() for layer in reference.layers)
    return velocity.float().unflatten(0, (b, f))


def _face_tokens(nets: MemoNets, batch: TrainingBatch, without: Tensor | None) -> Tensor:
    """(b t d); clips ``without`` a face (b,) have that of an embedding of zeros, as in the sampler."""
    faces = batch.face_emb.float()
    return nets.image_proj(faces if without is None else faces.masked_fill(without[:, None], 0)).to(nets.dtype)


def _pictures(nets: MemoNets, batch: TrainingBatch, draws: StepDraws) -> Tensor:
    """Reference picture and past frames (b 1+n c h w) in the form that the reference net takes."""
    return batch.reference_latents.masked_fill(_per_sample(draws.uncond_img, batch.reference_latents), 0).to(nets.dtype)


def flow_loss(
    velocity: Tensor,
    noisy: Tensor,
    latents: Tensor,
    sigmas: Tensor,
    weighting: TimestepSampling,
    robust_threshold: float | None,
    places: Tensor | None = None,
) -> TrainingLoss:
    """Mean squared error of the clean latents to which ``velocity`` leads; all (b f c h w) float32, sigmas (b,).

    The error of the velocity is weighted by sigma², so the robust threshold leaves out noisy samples first, unless ``weighting``
    makes up for it. places: float32 (h w), weights of the places of a picture.
    """
    predicted = noisy - _per_sample(sigmas, noisy) * velocity
    errors = (predicted - latents).square()
    per_sample = (errors if places is None else errors * places).flatten(1).mean(dim=1)
    weighted = weighting.weights(sigmas) * per_sample
    kept = torch.ones_like(weighted, dtype=torch.bool) if robust_threshold is None else weighted <= robust_threshold
    # samples that are left out stay in the graph, so that every parameter has a gradient (of zeros) in every process
    loss = torch.where(kept, weighted, 0).sum() / kept.sum().clamp(min=1)
    return TrainingLoss(loss, per_sample.detach(), weighted.detach(), kept)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(b,) to (b 1 1 ..), as many dimensions as ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))
