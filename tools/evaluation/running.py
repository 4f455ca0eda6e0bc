"""Renders and reads all cases of all variants, in one process or several."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch

from memo_modules.clips import FPS
from memo_modules.types import SamplerSettings
from memo_modules.video.files import write_video
from tools.evaluation.reader import Reader, load_reader
from tools.evaluation.readings import Reading, read
from tools.evaluation.rendering import Model, Rendered, sound_of
from tools.evaluation.variants import TRUTH, VAE, VARIANTS, Case


@dataclass(frozen=True)
class Setup:
    """What a process needs. reader: its file. videos: folder for the videos themselves, None for none. threads: of torch, 0 for its own choice."""

    models: Path
    checkpoint: Path
    reader: Path
    base: SamplerSettings
    size: int = 128
    device: str = "cpu"
    videos: Path | None = None
    threads: int = 0


@dataclass
class Results:
    """The readings of one variant. same: whether they were taken over from the variant that it equals."""

    short: list[Reading] = field(default_factory=list)
    long: list[Reading] = field(default_factory=list)
    same: bool = False


class Worker:
    """Makes readings, with everything that they need loaded at the first one."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self._model: Model | None = None
        self._reader: Reader | None = None

    @property
    def model(self) -> Model:
        if self._model is None:
            self._model = Model(self.setup.models, self.setup.checkpoint, self.setup.size, self.setup.device)
        return self._model

    def read(self, key: str, case: Case) -> Reading:
        """The reading of one video of a variant; of the true one where that is asked for."""
        setup, variant, clip = self.setup, VARIANTS[key], case.clip()
        if self._reader is None:
            self._reader = load_reader(setup.reader)
        if key in (TRUTH, VAE):
            frames = clip.frames(setup.size)
            rendered = Rendered(frames if key == TRUTH else self.model.reconstruct(frames), ())
        else:
            rendered = self.model.render(case, variant, variant.settings(setup.base))
        if setup.videos:
            setup.videos.mkdir(parents=True, exist_ok=True)
            name = f"{key}_{case.identity}_{case.mood}_{case.seconds:g}s.mp4"
            frames = torch.from_numpy(rendered.frames).movedim(-1, 1).float() / 255
            write_video(setup.videos / name, frames, FPS, sound_of(case))
        return read(case, clip, rendered.frames, self._reader, rendered.seconds)


_worker: Worker | None = None
"""Of a process of the pool."""


def _start(setup: Setup) -> None:
    global _worker
    if setup.threads:
        torch.set_num_threads(setup.threads)
    _worker = Worker(setup)


def _read(key: str, case: Case) -> Reading:
    return _worker.read(key, case)


def run(
    setup: Setup,
    keys: Sequence[str],
    short: Sequence[Case],
    long: Sequence[Case] = (),
    all_long: bool = False,
    workers: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Results]:
    """The readings of the variants ``keys``, long videos of those that have them, or of all.

    A variant that should equal another one is rendered whole only where the first case says that it does not.
    """
    cases = {key: [*short, *(long if all_long or VARIANTS[key].long else ())] for key in keys}
    twins = {key: VARIANTS[key].equal_to for key in keys if VARIANTS[key].equal_to in keys}
    first = [(key, case) for key in keys for case in (cases[key][:1] if key in twins else cases[key])]
    readings = _read_all(setup, first, workers, say)
    same = {key for key, twin in twins.items() if readings[key, short[0]].digest == readings[twin, short[0]].digest}
    readings |= _read_all(setup, [(key, case) for key in twins if key not in same for case in cases[key][1:]], workers, say)
    found = {}
    for key in keys:
        source = twins[key] if key in same else key
        of_short, of_long = ([readings[source, case] for case in group if case in cases[key]] for group in (short, long))
        found[key] = Results(of_short, of_long, key in same)
    return found


def _read_all(setup: Setup, tasks: list[tuple[str, Case]], workers: int, say: Callable[[str], None]) -> dict[tuple[str, Case], Reading]:
    tasks = sorted(tasks, key=lambda task: -task[1].seconds)  # the longest first, so that no process waits for one at the end
    total, done, began = sum(case.seconds for _, case in tasks), 0.0, time.monotonic()
    readings = {}

    def note(task: tuple[str, Case], reading: Reading) -> None:
        nonlocal done
        readings[task] = reading
        done += task[1].seconds
        took = time.monotonic() - began
        say(
            f"{task[0]}: character {task[1].identity}, {task[1].mood}, {task[1].seconds:g} s; {took:.0f} s, {took / done * (total - done):.0f} s left"
        )

    if workers == 1 or len(tasks) < 2:
        if _worker is None or _worker.setup != setup:
            _start(setup)
        for task in tasks:
            note(task, _read(*task))
        return readings
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (setup,)) as pool:
        futures: dict[Future, tuple[str, Case]] = {pool.submit(_read, *task): task for task in tasks}
        for future in as_completed(futures):
            note(futures[future], future.result())
    return readings
