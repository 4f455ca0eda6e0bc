"""Validation: the loss on videos that do not train, by noise level, with the same clips and the same noise each time.

So two steps differ in their weights alone, and a loss that rises says that the training learns its videos by heart.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import default_collate

from ..errors import InputError
from ..vae import DiffusersVAE
from .checkpoint_folders import check_room, read_best, write_best
from .dataset import ClipDataset, draw_clip, read_metadata
from .draws import NO_RATES, StepDraws
from .loop import Trainer
from .objective import TrainingBatch, consecutive_clips, encode_batch, training_loss
from .reading import read_or_none
from .settings import plain
from .stream import draws_at, generator_of, seed_of


@dataclass(frozen=True)
class ValidationLog:
    """levels: the mean loss of the clips at each noise level, from the least noise to the most, each an equal part of (0, 1]. loss: their mean.
    best_step, best_loss: of the lowest so far, this one included."""

    step: int
    loss: float
    levels: tuple[float, ...]
    best_step: int
    best_loss: float
    seconds: float


class Validation:
    """The held-out clips of a training, encoded once. Every process makes one and calls the same methods in the same order.

    Their loss is the training's, of its weighting, with nothing dropped and nothing left out. vae: encodes them. Raises InputError when none of
    the videos can be read, or one of them trains as well.
    """

    def __init__(self, trainer: Trainer, vae: DiffusersVAE):
        self.trainer, self.settings = trainer, trainer.settings.validation
        self.seed = seed_of(trainer.settings.seed, "validation", 0)
        self._clips: dict[int, tuple[TrainingBatch, tuple[StepDraws, ...]]] = {}
        if not self.settings.metadata:
            return
        with trainer.processes.together():
            self._clips = dict(self._encoded(vae))
        if not any(trainer.processes.gather(len(self._clips))):
            raise InputError("validation.metadata: none of its videos can be read. The log names them.")

    def is_due(self, step: int) -> bool:
        return bool(self.settings.metadata) and (step % self.settings.every == 0 or step == self.trainer.last_step)

    def validate(self, should_stop: Callable[[], bool] = lambda: False) -> ValidationLog | None:
        """The losses at the trainer's step, None when ``should_stop`` holds in a process meanwhile. Weights of the lowest loss so far are
        written as `checkpoint-best`; raises StorageError when the disk does not take it."""
        began, trainer, mine = time.monotonic(), self.trainer, {}
        with trainer.processes.together(), trainer.averaged():
            for number in self._clips:
                if should_stop():
                    break
                mine[number] = self._losses(number)
        found = {number: losses for part in trainer.processes.gather(mine) for number, losses in part.items()}
        if len(found) < sum(trainer.processes.gather(len(self._clips))):
            return None
        # in the order of the clips, so that the sum does not depend on the number of processes
        levels = tuple(sum(found[number][level] for number in sorted(found)) / len(found) for level in range(self.settings.levels))
        loss, step = sum(levels) / len(levels), trainer.counters.step
        best_step, best_loss = self._keep_best(step, loss, levels)
        return ValidationLog(step, loss, levels, best_step, best_loss, time.monotonic() - began)

    def _encoded(self, vae: DiffusersVAE) -> Iterator[tuple[int, tuple[TrainingBatch, tuple[StepDraws, ...]]]]:
        """This process's clips by number: those of all videos in turn."""
        trainer, data = self.trainer, self.trainer.settings.data
        clips = ClipDataset(read_metadata(self.settings.metadata), data.height, data.width, data.layout)
        trained = {video.video.resolve() for video in trainer.stream.dataset.videos}
        both = [video.video for video in clips.videos if video.video.resolve() in trained]
        if both:
            raise InputError(f"validation.metadata: {both[0]} trains as well. Take it out of data.metadata, or out of this.")
        for number in range(trainer.accelerator.process_index, self.settings.clips, trainer.processes.count):
            video = clips.videos[number % len(clips.videos)]
            indices = draw_clip(data.layout, video.frames, generator_of(self.seed, "clip", number), 0)
            sample = read_or_none(lambda video=video, indices=indices: clips.clip(video, indices), str(video.video))
            if sample is None:
                continue
            norms = trainer.nets.diffusion_net.emotion_norms
            weighting, schedule = trainer.settings.weighting, trainer.schedule
            pictures, draws = draws_at(self.seed, [number], data.layout, trainer.latent, norms, weighting, schedule, NO_RATES)
            device = trainer.accelerator.device
            pictures = replace(pictures, **{name: tensor.to(device) for name, tensor in vars(pictures).items()})
            sample = {name: tensor.to(device) for name, tensor in default_collate([sample]).items()}
            with torch.no_grad():
                yield number, (encode_batch(vae, sample, pictures).to("cpu"), draws)

    @torch.no_grad()
    def _losses(self, number: int) -> list[float]:
        """Of a clip at each level, or the mean over the clips of a sample that has several."""
        trainer, levels = self.trainer, self.settings.levels
        batch, draws = self._clips[number]
        batch, place = batch.to(trainer.accelerator.device), torch.rand(1, generator=generator_of(self.seed, "level", number))
        losses = []
        for level in range(levels):
            timesteps, sigmas = trainer.schedule.at(1 - (level + place) / levels)
            placed = [replace(draw, timesteps=timesteps, sigmas=sigmas).to(trainer.accelerator.device) for draw in draws]
            of_clips = [
                training_loss(trainer.nets, clip, draw, trainer.settings.weighting, None, pasts=pasts).weighted.item()
                for clip, draw, pasts in consecutive_clips(trainer.nets, batch, placed)
            ]
            losses.append(sum(of_clips) / len(of_clips))
        return losses

    def _keep_best(self, step: int, loss: float, levels: tuple[float, ...]) -> tuple[int, float]:
        """Step and loss of the best so far; that of other settings of the validation does not count."""
        trainer, output_dir, same = self.trainer, self.trainer.settings.output_dir, plain(self.settings)
        with trainer.processes.together():
            before = read_best(output_dir)
            best = before if before is not None and before.get("validation") == same else None
            if trainer.accelerator.is_main_process and math.isfinite(loss) and (best is None or loss < best["loss"]):
                check_room(output_dir, trainer.weights_size)
                best = {"step": step, "loss": loss, "levels": levels, "validation": same}
                write_best(output_dir, best, trainer.write_weights)
        return trainer.processes.gather((best["step"], best["loss"]) if best else (step, loss))[0]
