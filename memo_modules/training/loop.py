"""The training loop, the same for one process and for many. ``accelerate`` brings devices and processes together."""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import CheckpointError, InputError
from ..sampler.sampling import MemoNets
from .checkpoint_folders import read_state, write_checkpoint, write_nets, write_state
from .dataset import PreparedClips
from .draws import PictureDraws, StepDraws
from .objective import Pasts, TrainingBatch, TrainingLoss, consecutive_clips, training_loss
from .low_rank import add_factors, write_factors
from .parameters import learning_rate, set_trainable
from .processes import Processes
from .schedule import FlowSchedule
from .settings import TrainingSettings, changes, plain
from .stream import SampleStream, Share, draws_at
from .updates import make_updates

MakeBatch = Callable[[dict[str, Tensor], PictureDraws], TrainingBatch]
"""From a collated batch of the dataset and its draws, both on the device, to the input of the objective."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counters:
    """Since the start of the training: steps, samples of all processes, and steps that changed nothing because their gradients were not
    finite."""

    step: int = 0
    samples: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class StepLog:
    """One step, over all processes.

    loss: mean over the clips that the robust threshold kept, which is what trains. loss_all: over all of them.
    mask_rate: share of clips left out. grad_norm: before clipping. stepped: False if no weight has changed. stop: the
    loop ends after this step.
    """

    step: int
    loss: float
    loss_all: float
    mask_rate: float
    grad_norm: float
    learning_rate: float
    seconds: float
    stepped: bool
    stop: bool


class Objective(nn.Module):
    """The nets that train as one module, for accelerate to wrap. The frozen ones are the same in every process."""

    def __init__(self, nets: MemoNets, trained: Mapping[str, nn.Parameter], settings: TrainingSettings, places: Tensor | None = None):
        super().__init__()
        self.nets, self.settings, self.places = nets, settings, places
        self.trained = nn.ModuleDict({name: getattr(nets, name) for name in sorted({name.split(".")[0] for name in trained})})

    def forward(self, batch: TrainingBatch, draws: StepDraws, pasts: Pasts) -> TrainingLoss:
        settings = self.settings
        return training_loss(self.nets, batch, draws, settings.weighting, settings.robust_threshold, settings.checkpointing, pasts, self.places)


class Trainer:
    """A training between two steps: nets, optimizer, averages and counters.

    nets: on the device of ``accelerator``, which accumulates no gradients of its own and has mixed precision for
    DeepSpeed alone. latent: (c h w) of a picture. places: see flow_loss. Every process makes one and calls the same methods in the same order.

    A step equals one batch of all samples of all processes and micro-batches: gradients are summed over the clips that the robust
    threshold kept, and divided by their number once it is known, after the last backward pass. (The published trainer takes means over
    each process's samples, and counts a process that kept none.) DeepSpeed updates weights before gradients could be divided, so with
    it the threshold requires a single backward pass per step.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        nets: MemoNets,
        dataset: PreparedClips,
        make_batch: MakeBatch,
        latent: tuple[int, int, int],
        accelerator,
        processes: Processes,
        places: Tensor | None = None,
    ):
        self.settings, self.nets, self.make_batch, self.latent = settings, nets, make_batch, latent
        self.accelerator, self.processes = accelerator, processes
        self.stream = SampleStream(dataset, settings.seed)
        self.share = Share(settings.batch_size, settings.gradient_accumulation, accelerator.process_index, accelerator.num_processes)
        self.schedule = FlowSchedule.make()
        self.counters = Counters()
        if settings.lora is None:
            self.trained = set_trainable(nets, settings.trainable)
        else:
            self.trained = add_factors(nets, settings.trainable, settings.lora, settings.seed)
        if not self.trained:
            raise InputError("trainable: expected at least one net, got none.")
        objective = Objective(nets, self.trained, settings, places)
        self.updates = make_updates(objective, self.trained, settings.optimizer, accelerator, settings.batch_size)
        passes = settings.gradient_accumulation * settings.data.clips_per_sample
        if passes > 1 and settings.robust_threshold is not None and not self.updates.scales_gradients:
            raise InputError("robust_threshold: expected null under DeepSpeed with gradient_accumulation or clips_per_sample above 1.")
        self.average = None
        if settings.ema_decay is not None:
            self.average = {name: weight.to(torch.float32, copy=True) for name, weight in self.updates.weights().items()}
        self._batches = None

    def run(self, on_step: Callable[[StepLog], None], on_checkpoint: Callable[[Path], None], should_stop: Callable[[], bool]) -> None:
        """Train up to the last step or to ``until``, or to the end of the step in which ``should_stop`` holds in any process.

        A checkpoint is written every ``save_every`` steps and at the end. on_step, on_checkpoint: called in every process.
        """
        settings, stop = self.settings, False
        last = min(settings.steps, settings.until or settings.steps)
        while self.counters.step < last and not stop:
            log = self.step(should_stop)
            on_step(log)
            stop = log.stop
            if stop or log.step % settings.save_every == 0 or log.step == last:
                on_checkpoint(self.save())

    def step(self, should_stop: Callable[[], bool] = lambda: False) -> StepLog:
        """One optimizer step."""
        began, settings, share = time.monotonic(), self.settings, self.share
        sums = torch.zeros(4, dtype=torch.float64, device=self.accelerator.device)
        for micro in range(share.accumulation):
            batch, draws = self._next_batch()
            for number, clip in enumerate(consecutive_clips(self.nets, batch, draws)):
                self._pass(clip, sums, last=(micro, number) == (share.accumulation - 1, len(draws) - 1))
        sums[3] = should_stop()
        kept, loss, loss_all, stop = self.accelerator.reduce(sums, "sum").tolist()
        rate = learning_rate(settings.optimizer, self.counters.step, settings.steps)
        clips, kept_or_one = share.samples_per_step * settings.data.clips_per_sample, max(kept, 1)
        moved = self.updates.step(rate, clips / kept_or_one)
        self._count(share.samples_per_step, moved.stepped)
        seconds = time.monotonic() - began
        numbers = (loss / kept_or_one, loss_all / clips, 1 - kept / clips, moved.grad_norm, rate, seconds)
        return StepLog(self.counters.step, *numbers, moved.stepped, bool(stop))

    def _pass(self, clip: tuple[TrainingBatch, StepDraws, Pasts], sums: Tensor, last: bool) -> None:
        """Forward and backward of one micro-batch of clips; kept clips, their losses and all losses are added to ``sums``."""
        settings, updates = self.settings, self.updates
        with updates.pass_of(last):
            result = updates.module(*clip)
            kept = result.kept.sum()
            # processes average their gradients, which gives the sum over kept clips / clips of the step
            share = kept / (len(result.kept) * settings.gradient_accumulation * settings.data.clips_per_sample)
            if not updates.scales_gradients:
                mean = self.accelerator.reduce(result.kept.float().mean(), "mean")
                share = share / mean.clamp(min=1 / (len(result.kept) * self.share.processes))
            updates.backward(result.loss * share, last)
        masked = torch.where(result.kept, result.weighted, 0).sum()
        sums[:3] += torch.stack([kept.double(), masked.double(), result.weighted.sum().double()])

    def save(self) -> Path:
        """Write `checkpoint-N` for the present step and delete what is beyond ``keep``; returns its folder."""
        settings, step = self.settings, self.counters.step
        state = self.updates.state(keep=self.accelerator.is_main_process)
        with self.processes.together():
            if self.accelerator.is_main_process:
                write_checkpoint(settings.output_dir, step, settings.keep, lambda folder: self._write(folder, state))
        return settings.output_dir / f"checkpoint-{step}"

    def load(self, checkpoint: Path) -> None:
        """Continue from a checkpoint of the same nets. Raises CheckpointError if other parameters are trained in it."""
        values, tensors = read_state(checkpoint)
        parts = ["weights"] + (["average"] if self.average is not None else [])
        found = {key.partition(".")[2] for key in tensors if key.startswith("weights.")}
        missing = [f"{part}.{name}" for part in parts for name in self.trained if f"{part}.{name}" not in tensors]
        if missing or found != self.trained.keys():
            first = (missing or sorted(found - self.trained.keys()))[0]
            raise CheckpointError(
                f"{checkpoint}: it trained other weights than trainable, lora and ema_decay name, first {first}. "
                "Give it as checkpoint instead of resuming it."
            )
        for change in changes(values["settings"], plain(self.settings)):
            _log.warning("Since %s the settings have changed: %s", checkpoint.name, change)
        self.updates.load(tensors)
        for name, average in (self.average or {}).items():
            average.copy_(tensors[f"average.{name}"])
        self.counters = Counters(**values["counters"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside this context the nets have the average of their weights, if there is one, as in checkpoints."""
        if self.average is None:
            yield
            return
        own = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        try:
            self._put(self.average)
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(weights[name])

    def _write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        average = self.average or {}
        if self.settings.lora is None:
            write_nets(folder, self.settings.checkpoint, self.nets, average)
        else:
            write_factors(folder, self.settings.lora, self.average or self.updates.weights(), self.nets.dtype)
        tensors = {**state, **{f"average.{name}": tensor for name, tensor in average.items()}}
        write_state(folder, {"counters": asdict(self.counters), "settings": plain(self.settings)}, tensors)

    def _count(self, samples: int, stepped: bool) -> None:
        before, decay = self.counters, self.settings.ema_decay
        self.counters = Counters(before.step + 1, before.samples + samples, before.skipped + (not stepped))
        if self.average is not None and decay is not None and stepped:
            # at first over the few steps that there are
            moved = before.step - before.skipped
            share = 1 - min(decay, (1 + moved) / (10 + moved))
            weights = [weight.float() for weight in self.updates.weights().values()]
            torch._foreach_lerp_(list(self.average.values()), weights, share)  # pyright: ignore[reportPrivateImportUsage]  # see parameters.py

    def _next_batch(self) -> tuple[TrainingBatch, tuple[StepDraws, ...]]:
        """A micro-batch, and the draws of each clip of its samples."""
        if self._batches is None:
            self._batches = zip(self.share.batches(self.counters.samples), self._loader(), strict=True)
        positions, sample = next(self._batches)
        settings, device = self.settings, self.accelerator.device
        norms = self.nets.diffusion_net.emotion_norms
        pictures, draws = draws_at(
            settings.seed, positions, settings.data.layout, self.latent, norms, settings.weighting, self.schedule, settings.rates
        )
        sample = {name: tensor.to(device, non_blocking=True) for name, tensor in sample.items()}
        pictures = replace(pictures, **{name: tensor.to(device) for name, tensor in vars(pictures).items()})
        return self.make_batch(sample, pictures).to(device), tuple(draw.to(device) for draw in draws)

    def _loader(self) -> DataLoader:
        return DataLoader(
            self.stream,
            batch_sampler=_Batches(self.share, self.counters.samples),
            num_workers=self.settings.data.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            worker_init_fn=_stay,
        )


class _Batches:
    """Positions of one process's batches, in the form that DataLoader takes."""

    def __init__(self, share: Share, first: int):
        self.share, self.first = share, first

    def __iter__(self):
        return self.share.batches(self.first)


def _stay(worker: int) -> None:
    """Ignore signals in a worker. Ctrl-C reaches every process of a terminal, and a launcher's SIGTERM every one of its group; the process
    that trains still needs the batches it has asked for, and ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def check_sample(nets: MemoNets, sample: Mapping[str, Any], frames: int = 1) -> None:
    """Raises InputError when the features of a sample of the dataset are not those that the nets take, or its clips have too
    many frames for them."""
    motion = nets.diffusion_net.config.motion_module_kwargs
    longest = motion.temporal_position_encoding_max_len
    if motion.temporal_position_encoding and frames > longest:
        raise InputError(f"data.frames: expected at most {longest}, the frames that these nets make at a time, got {frames}.")
    faces, d_face = sample["face_emb"].shape[-1], nets.image_proj.d_face
    if faces != d_face:
        raise InputError(f"metadata: face embeddings of {faces} numbers, these nets take {d_face}. Prepare the videos with another recogniser.")
    values = math.prod(sample["audio_emb"].shape[-3:])
    if values != nets.audio_proj.d_in:
        raise InputError(
            f"metadata: audio windows of {values} numbers {tuple(sample['audio_emb'].shape[-3:])}, these nets take {nets.audio_proj.d_in}. "
            "Prepare the videos with the audio encoder that belongs to the checkpoint, and see audio_margin."
        )
