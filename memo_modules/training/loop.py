"""The training loop, the same for one process and for many. ``accelerate`` brings devices and processes together."""

import logging
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..errors import CheckpointError, InputError
from ..files.locks import locked
from ..sampler.sampling import MemoNets
from ..weights.checkpoints import NETS
from .checkpoint_folders import STATE, check_room, no_room, read_state, write_checkpoint, write_nets, write_state
from .dataset import PreparedClips
from .distillation import TrajectoryBatch, TrajectoryDataset, distillation_loss
from .draws import PictureDraws, StepDraws
from .low_rank import add_factors, write_factors
from .objective import Pasts, TrainingBatch, TrainingLoss, consecutive_clips, training_loss
from .parameters import learning_rate, set_trainable
from .processes import Processes
from .schedule import FlowSchedule
from .settings import TrainingSettings, changes, plain
from .stream import SampleStream, Share, draws_at
from .updates import make_updates

MakeBatch = Callable[[dict[str, Tensor], PictureDraws], TrainingBatch]
"""From a collated batch of the dataset and its draws, both on the device, to the input of the objective."""

LOCK, LOCK_PATIENCE = "rescue.lock", 600
"""Of the process that writes a checkpoint after an error, and the seconds for which the others of its training wait for it."""

_MARGIN = 1.1
"""Of the room for a checkpoint, that others may fill within a step."""

Value = TypeVar("Value")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counters:
    """Since the start of the training: steps, samples of all processes, steps that changed nothing because their gradients were not
    finite, and how often another sample was taken because a video could not be read."""

    step: int = 0
    samples: int = 0
    skipped: int = 0
    unreadable: int = 0


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
        if isinstance(batch, TrajectoryBatch):
            return distillation_loss(self.nets, batch, draws, settings.checkpointing, pasts)
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
        dataset: PreparedClips | TrajectoryDataset,
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
        self._saved: int | None = None
        self._between_steps, self._all_failed = True, False

    def run(self, on_step: Callable[[StepLog], None], on_checkpoint: Callable[[Path], None], should_stop: Callable[[], bool]) -> None:
        """Train up to the last step or to ``until``, or to the end of the step in which ``should_stop`` holds in any process.

        A checkpoint is written every ``save_every`` steps and at the end, also when the end is an error. on_step, on_checkpoint: called in
        every process. Raises StorageError before the first step when there is no room for a checkpoint, and ends with one, and StorageError,
        while there is room for just that.
        """
        settings, stop, short = self.settings, False, False

        def asked() -> bool:
            nonlocal short
            short = short or self._is_short_of_room()
            return should_stop() or short

        if self.counters.step < self.last_step:
            with self.processes.together():
                check_room(settings.output_dir, _MARGIN * self.checkpoint_size)
        try:
            while self.counters.step < self.last_step and not stop:
                log = self.step(asked)
                on_step(log)
                stop = log.stop
                if stop or log.step % settings.save_every == 0 or log.step == self.last_step:
                    on_checkpoint(self.save())
        except BaseException:
            self._rescue(on_checkpoint)
            raise
        if short and self.counters.step < self.last_step:
            raise no_room(settings.output_dir, self.checkpoint_size)

    @property
    def last_step(self) -> int:
        return min(self.settings.steps, self.settings.until or self.settings.steps)

    @property
    def checkpoint_size(self) -> int:
        """Bytes of a checkpoint: of write_weights, and in float32 of what trains, its two moments and its average."""
        return self.weights_size + sum(weight.numel() for weight in self.trained.values()) * 4 * (3 if self.average is None else 4)

    @property
    def weights_size(self) -> int:
        """Bytes of the nets, or of the factors."""
        whole = {} if self.settings.lora else {(name, key): each for name in NETS for key, each in getattr(self.nets, name).state_dict().items()}
        return sum(tensor.nbytes for tensor in (whole or self.trained).values())

    def _is_short_of_room(self) -> bool:
        """Whether it is time to write a last checkpoint: soon there may be no room for it."""
        try:
            free = shutil.disk_usage(self.settings.output_dir).free
            return self.accelerator.is_main_process and free < _MARGIN * self.checkpoint_size
        except OSError:
            return False

    def _rescue(self, on_checkpoint: Callable[[Path], None]) -> None:
        """Write a checkpoint of the last whole step, if there is none, after an error: in one process, while the others wait for it, or in
        all. The first process that comes to it writes it, which has all of the state, unless DeepSpeed divides that."""
        output_dir, step = self.settings.output_dir, self.counters.step
        if not self._between_steps:
            _log.error("The error came while weights were being updated: there is no checkpoint of step %d.", step + 1)
            return
        try:
            self._batches = None
            for parameter in self.trained.values():
                parameter.grad = None
            if not self.updates.whole_in_each:
                if self._all_failed:
                    on_checkpoint(self.save())
                return
            busy = f"{output_dir / LOCK} is held by a process that does not end."
            with locked(output_dir / LOCK, busy, patience=LOCK_PATIENCE, stays=False):
                if self._saved == step or (output_dir / f"checkpoint-{step}" / STATE).is_file() or not step:
                    return
                check_room(output_dir, self.checkpoint_size)
                state = self.updates.state(keep=True)
                on_checkpoint(write_checkpoint(output_dir, step, self.settings.keep, lambda folder: self._write(folder, state)))
        except Exception:  # the one that ended the training is the one to be told
            _log.exception("After an error the checkpoint of step %d could not be written.", step)

    def step(self, should_stop: Callable[[], bool] = lambda: False) -> StepLog:
        """One optimizer step."""
        began, settings, share = time.monotonic(), self.settings, self.share
        sums = torch.zeros(5, dtype=torch.float64, device=self.accelerator.device)
        for micro in range(share.accumulation):
            batch, draws, unreadable = self._together(self._next_batch)
            sums[4] += unreadable
            for number, clip in enumerate(consecutive_clips(self.nets, batch, draws)):
                self._pass(clip, sums, last=(micro, number) == (share.accumulation - 1, len(draws) - 1))
        sums[3] = should_stop()
        kept, loss, loss_all, stop, unreadable = self.accelerator.reduce(sums, "sum").tolist()
        rate = learning_rate(settings.optimizer, self.counters.step, settings.steps)
        clips, kept_or_one = share.samples_per_step * settings.data.clips_per_sample, max(kept, 1)
        self._between_steps = False
        moved = self.updates.step(rate, clips / kept_or_one)
        self._count(share.samples_per_step, moved.stepped, int(unreadable))
        self._between_steps = True
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
            if self.accelerator.is_main_process and self._saved != step:
                check_room(settings.output_dir, self.checkpoint_size)
                write_checkpoint(settings.output_dir, step, settings.keep, lambda folder: self._write(folder, state))
        self._saved = step
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

    def write_weights(self, folder: Path) -> None:
        """What has been learned, in the form in which it is used: the four nets, or the factors; averaged, if there is an average."""
        recipe = self.settings.distil.recipe if self.settings.distil else None
        if self.settings.lora is None:
            write_nets(folder, self.settings.checkpoint, self.nets, self.average or {}, recipe)
        else:
            write_factors(folder, self.settings.lora, self.average or self.updates.weights(), self.nets.dtype, recipe)

    def _write(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        self.write_weights(folder)
        tensors = {**state, **{f"average.{name}": tensor for name, tensor in (self.average or {}).items()}}
        write_state(folder, {"counters": asdict(self.counters), "settings": plain(self.settings)}, tensors)

    def _together(self, make: Callable[[], Value]) -> Value:
        """What ``make`` returns; an error in one process is one in all, at the same place."""
        try:
            with self.processes.together():
                made = make()
        except Exception:
            self._all_failed = True
            raise
        return made

    def _count(self, samples: int, stepped: bool, unreadable: int) -> None:
        before, decay = self.counters, self.settings.ema_decay
        self.counters = Counters(before.step + 1, before.samples + samples, before.skipped + (not stepped), before.unreadable + unreadable)
        if self.average is not None and decay is not None and stepped:
            # at first over the few steps that there are
            moved = before.step - before.skipped
            share = 1 - min(decay, (1 + moved) / (10 + moved))
            weights = [weight.float() for weight in self.updates.weights().values()]
            torch._foreach_lerp_(list(self.average.values()), weights, share)  # pyright: ignore[reportPrivateImportUsage]  # see parameters.py

    def _next_batch(self) -> tuple[TrainingBatch, tuple[StepDraws, ...], int]:
        """A micro-batch, the draws of each clip of its samples, and how many videos were skipped for it."""
        if self._batches is None:
            self._batches = zip(self.share.batches(self.counters.samples), self._loader(), strict=True)
        positions, sample = next(self._batches)
        settings, device = self.settings, self.accelerator.device
        norms = self.nets.diffusion_net.emotion_norms
        pictures, draws = draws_at(
            settings.seed, positions, settings.data.layout, self.latent, norms, settings.weighting, self.schedule, settings.rates
        )
        unreadable = int(sample.pop("unreadable").sum())
        sample = {name: tensor.to(device, non_blocking=True) for name, tensor in sample.items()}
        pictures = replace(pictures, **{name: tensor.to(device) for name, tensor in vars(pictures).items()})
        return self.make_batch(sample, pictures).to(device), tuple(draw.to(device) for draw in draws), unreadable

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
    """Ignore signals in a worker. Ctrl-C reaches every process of a terminal, a launcher's SIGTERM every one of its group, and what a scheduler
    warns with every one of the job; the process that trains still needs the batches it has asked for, and ends its workers itself."""
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def check_frames(nets: MemoNets, frames: int) -> None:
    """Raises InputError when clips have too many frames for the nets."""
    motion = nets.diffusion_net.config.motion_module_kwargs
    longest = motion.temporal_position_encoding_max_len
    if motion.temporal_position_encoding and frames > longest:
        raise InputError(f"data.frames: expected at most {longest}, the frames that these nets make at a time, got {frames}.")


def check_sample(nets: MemoNets, sample: Mapping[str, Any]) -> None:
    """Raises InputError when the features of a sample of the dataset are not those that the nets take."""
    faces, d_face = sample["face_emb"].shape[-1], nets.image_proj.d_face
    if faces != d_face:
        raise InputError(f"metadata: face embeddings of {faces} numbers, these nets take {d_face}. Prepare the videos with another recogniser.")
    values = math.prod(sample["audio_emb"].shape[-3:])
    if values != nets.audio_proj.d_in:
        raise InputError(
            f"metadata: audio windows of {values} numbers {tuple(sample['audio_emb'].shape[-3:])}, these nets take {nets.audio_proj.d_in}. "
            "Prepare the videos with the audio encoder that belongs to the checkpoint, and see audio_margin."
        )
