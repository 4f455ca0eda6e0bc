"""The endless sequence of samples of a training, and everything that is drawn for each, from its position in the sequence.

A sample's position counts from 0 on through all epochs, and step after step takes the next ones. Number of processes,
batches, workers and the step from which a training was resumed decide who works on a sample, never what it is.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError
from .dataset import ClipLayout
from .draws import PictureDraws, Rates, StepDraws, draw_consecutive_steps, draw_pictures
from .reading import read_or_none
from .schedule import FlowSchedule, TimestepSampling


def seed_of(seed: int, purpose: str, number: int) -> int:
    """A seed for one of many independent generators."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()[:6], "big")


def generator_of(seed: int, purpose: str, number: int) -> torch.Generator:
    """One of many independent generators."""
    return torch.Generator().manual_seed(seed_of(seed, purpose, number))


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, videos: int) -> tuple[int, ...]:
    """The order of the videos in an epoch."""
    return tuple(torch.randperm(videos, generator=generator_of(seed, "epoch", epoch)).tolist())


INSTEAD = 16
"""Videos that are tried instead of one that cannot be read."""


class Samples(Protocol):
    """A data set of videos, from which a video's number and a seed choose a sample."""

    @property
    def videos(self) -> Sequence[Any]:
        """Each with ``video``, the path of its file."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, item: tuple[int, int], /) -> Mapping[str, Tensor | int]: ...


class SampleStream(Dataset):
    """The sample at a position: a clip of a video of ``dataset``, each video once in an epoch.

    A video that cannot be read is skipped, see reading, and another one taken, the same one each time. ``unreadable`` of a sample counts those
    that were skipped for it. Raises InputError when none of INSTEAD others can be read either.
    """

    def __init__(self, dataset: Samples, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, position: int) -> dict[str, Tensor | int]:
        epoch, place = divmod(position, len(self.dataset))
        video = epoch_order(self.seed, epoch, len(self.dataset))[place]
        item = video, seed_of(self.seed, "clip", position)
        for skipped in range(INSTEAD + 1):
            sample = read_or_none(lambda item=item: self.dataset[item], str(self.dataset.videos[item[0]].video))
            if sample is not None:
                return {**sample, "unreadable": skipped}
            drawn = seed_of(self.seed, "instead", position * INSTEAD + skipped)
            item = drawn % len(self.dataset), drawn
        raise InputError(f"metadata: {INSTEAD + 1} videos in a row cannot be read. The log names them; is their disk there?")


@dataclass(frozen=True)
class Share:
    """Which samples of a step one process takes: ``batch_size`` at a time, ``accumulation`` times."""

    batch_size: int
    accumulation: int = 1
    process: int = 0
    processes: int = 1

    @property
    def samples_per_step(self) -> int:
        """Of all processes together."""
        return self.batch_size * self.accumulation * self.processes

    def batches(self, first: int) -> Iterator[list[int]]:
        """Positions of this process's batches, without end; ``first``: samples of all steps before."""
        start = first + self.process * self.batch_size
        while True:
            yield list(range(start, start + self.batch_size))
            start += self.processes * self.batch_size


def draws_at(
    seed: int,
    positions: Sequence[int],
    layout: ClipLayout,
    latent: tuple[int, int, int],
    norms: int,
    sampling: TimestepSampling,
    schedule: FlowSchedule,
    rates: Rates,
) -> tuple[PictureDraws, tuple[StepDraws, ...]]:
    """What is drawn for the samples at ``positions``, as one batch on the CPU: for their pictures, and for each of their
    clips. latent: (c h w) of a picture. The others: see draw_step."""
    drawn = []
    for position in positions:
        generator = generator_of(seed, "draws", position)
        pictures = draw_pictures(1, layout.sample_frames, layout.past_frames, latent, rates, generator)
        shape = (1, layout.frames, *latent)
        drawn.append((pictures, draw_consecutive_steps(layout.clips, shape, norms, sampling, schedule, rates, generator)))
    pictures, clips = zip(*drawn, strict=True)
    return _joined(pictures), tuple(_joined(clip) for clip in zip(*clips, strict=True))


def _joined(draws: Sequence):
    """Draws of single clips, joined into those of a batch."""
    columns = {"emotion_drop": 1}  # (norms b), all else (b ..)
    names = [field.name for field in fields(draws[0]) if getattr(draws[0], field.name) is not None]
    parts = {name: [getattr(each, name) for each in draws] for name in names}
    return type(draws[0])(**{name: torch.cat(tensors, dim=columns.get(name, 0)) for name, tensors in parts.items()})
