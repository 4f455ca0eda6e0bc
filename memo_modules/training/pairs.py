"""Samples for distillation from portraits and voices alone: the past of a clip is the clip that the teacher made before it."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..clips import FPS
from ..errors import InputError
from ..pipeline import Conditioning, MemoPipeline
from ..rendering.jobs import Job, content_digest, read_manifest
from ..sampler.sampling import MemoNets, check_inputs
from ..store.obtain import find_model
from ..types import DEFAULT_SETTINGS, clip_label, frame_labels
from ..vae import DiffusersVAE
from ..weights.checkpoints import read_weights
from .dataset import ClipLayout
from .objective import TrainingBatch
from .stream import INSTEAD, generator_of

_log = logging.getLogger(__name__)


def read_pairs(path: Path) -> list[Job]:
    """The jobs of a manifest as scripts/render.py takes it, of which image, audio, emotion, separate and allow_no_face count. Raises InputError for
    the first line that cannot be used."""
    jobs = []
    for _, job in read_manifest(path, {}):
        if isinstance(job, InputError):
            raise InputError(f"distil.pairs: {path}: {job}")
        jobs.append(job)
    return jobs


class PairSource:
    """Clips of portraits that say voices; see distillation.Source, in whose place it is.

    Every ``chain`` samples follow each other: the first begins a video, with the portrait for its past, each other one continues the one before
    it. A chain takes the next pair, and begins anywhere in its voice. A pair that cannot be used is skipped, and said.

    models: a `models` folder with what a portrait and a voice need: face analysis, audio encoder, vocal separator, emotion models.
    """

    def __init__(self, pairs: Sequence[Job], models: Path, vae: DiffusersVAE, size: tuple[int, int], layout: ClipLayout, chain: int, seed: int):
        self.pairs, self.models, self.vae, self.size, self.layout, self.chain, self.seed = pairs, models, vae, size, layout, chain, seed
        self.pipeline: MemoPipeline | None = None
        self.current: tuple[int, Conditioning, Tensor] | None = None

    def key(self) -> list:
        """What tells these samples from others: digests of what is in the files, wherever they lie."""
        contents = [[content_digest("image", job.image), content_digest("audio", job.audio), job.emotion, job.separate] for job in self.pairs]
        return [self.seed, self.chain, self.size, [self.layout.frames, self.layout.past_frames], contents]

    @torch.no_grad()
    def sample(self, number: int, nets: MemoNets, before: Path | None) -> tuple[TrainingBatch, Tensor]:
        """A batch of sample ``number`` alone and the noise of its clip, on the nets' device. before: the trajectory of the sample before it in its
        chain. Raises InputError when no pair can be used."""
        chain, clip = divmod(number, self.chain)
        if self.current is None or self.current[0] != chain:
            self.current = chain, *self._begin(chain, nets)
        _, conditioning, portrait = self.current
        layout, audio, generator = self.layout, conditioning.audio, generator_of(self.seed, "noise", number)
        start = self._start(chain, len(audio.hidden_states)) + clip * layout.frames
        stop = start + layout.frames
        past = portrait.expand(layout.past_frames, -1, -1, -1)
        if before is not None:
            last = read_weights(before)["trajectory"][-1][-layout.past_frames :].float()
            past = self.vae.encode(self.vae.decode(last) * 2 - 1)
        noise = torch.randn(1, layout.frames, *portrait.shape[1:], generator=generator)
        labels = frame_labels(conditioning.emotion, stop, audio.fps, audio.timing)[start:stop]
        batch = TrainingBatch(
            torch.zeros_like(noise),
            torch.cat([portrait, past.to(portrait)])[None].float(),
            conditioning.face.embedding.float(),
            audio.windows(start, stop)[None].float(),
            torch.tensor([clip_label(labels)]),
        )
        return batch.to(nets.device), noise.to(nets.device)

    def _begin(self, chain: int, nets: MemoNets) -> tuple[Conditioning, Tensor]:
        """What steers the clips of a chain, and the latents of its portrait (1 c h w)."""
        reason, (width, height) = "", self.size
        if self.pipeline is None:
            self.pipeline = MemoPipeline(nets, self.vae, lambda role: find_model(role, self.models), nets.device, self.models)
        for skipped in range(min(INSTEAD, len(self.pairs))):
            job = self.pairs[(chain + skipped) % len(self.pairs)]
            try:
                options = {"emotion": job.emotion or None, "separate": job.separate, "allow_no_face": job.allow_no_face}
                made = self.pipeline.condition(job.image, job.audio, size=(width, height), fps=FPS, **options)
                check_inputs(nets, made.face, made.audio, DEFAULT_SETTINGS)
                needed, there = self.chain * self.layout.frames, made.audio.frame_count
                if there < needed:
                    raise InputError(f"audio: expected at least {needed} frames for distil.clips {self.chain}, got {there}.")
                return made, self.vae.encode(made.portrait).cpu()
            except InputError as error:
                reason = f"{job.image} with {job.audio}: {error}"
                _log.warning("distil.pairs: %s It is skipped.", reason)
        raise InputError(f"distil.pairs: {skipped + 1} pairs in a row cannot be used. The last: {reason}")

    def _start(self, chain: int, frames: int) -> int:
        """The frame of a voice of so many at which a chain begins."""
        starts = max(1, frames - self.chain * self.layout.frames + 1)
        return int(torch.randint(starts, (), generator=generator_of(self.seed, "start", chain)))
