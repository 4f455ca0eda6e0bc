"""Renders and reads all cases of all variants, in one process or several."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from memo_modules.clips import FPS
from memo_modules.types import SamplerSettings
from memo_modules.video.files import write_video
from tools.evaluation.keeping import Kept
from tools.evaluation.reader import Reader, load_reader
from tools.evaluation.readings import Reading, read
from tools.evaluation.rendering import Model, Rendered, sound_of
from tools.evaluation.variants import BASE, TRUTH, VAE, VARIANTS, Case


@dataclass(frozen=True)
class Setup:
    """What a process needs. reader: its file. videos: folder for the videos themselves, None for none. threads: of torch, 0 for its own choice.
    student: the checkpoint that runs the variants of preset turbo, under its ``recipe``."""

    models: Path
    checkpoint: Path
    reader: Path
    base: SamplerSettings
    size: int = 128
    device: str = "cpu"
    videos: Path | None = None
    threads: int = 0
    kept: Kept = field(default_factory=Kept)
    student: Path | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, key: str) -> SamplerSettings:
        return VARIANTS[key].settings(self.base, self.recipe)

    def place(self, key: str, case: Case) -> Path | None:
        """Where its reading is kept."""
        return self.kept.path(key, case, self.base if key in (TRUTH, VAE) else self.settings(key), self.size)

    def work(self, key: str, case: Case) -> float:
        """How long a video takes, roughly, beside others: its passes of the net, of which reading it is one."""
        settings = self.base if key in (TRUTH, VAE) else self.settings(key)
        return case.seconds * (1 if key in (TRUTH, VAE) else 1 + settings.steps * settings.branches)


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
        self._models: dict[Path, Model] = {}
        self._reader: Reader | None = None

    def model(self, key: str) -> Model:
        """What renders a variant."""
        setup = self.setup
        checkpoint = setup.student if setup.student and VARIANTS[key].preset == "turbo" else setup.checkpoint
        if checkpoint not in self._models:
            self._models[checkpoint] = Model(setup.models, checkpoint, setup.size, setup.device)
        return self._models[checkpoint]

    def read(self, key: str, case: Case) -> Reading:
        """The reading of one video of a variant; of the true one where that is asked for."""
        setup, variant, clip = self.setup, VARIANTS[key], case.clip()
        if self._reader is None:
            self._reader = load_reader(setup.reader)
        if key in (TRUTH, VAE):
            frames = clip.frames(setup.size)
            rendered = Rendered(frames if key == TRUTH else self.model(key).reconstruct(frames), ())
        else:
            rendered = self.model(key).render(case, variant, setup.settings(key))
        if setup.videos:
            setup.videos.mkdir(parents=True, exist_ok=True)
            name = f"{key}_{case.identity}_{case.mood}_{case.seconds:g}s.mp4"
            frames = torch.from_numpy(rendered.frames).movedim(-1, 1).float() / 255
            write_video(setup.videos / name, frames, FPS, sound_of(case))
        reading = read(case, clip, rendered.frames, self._reader, rendered.seconds)
        setup.kept.keep(setup.place(key, case), reading)
        return reading


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

    A variant that should equal another one is rendered whole only where the first case says that it does not. Of all variants but one, that
    of the base settings or the first, the readings come without pictures.
    """
    cases = {key: [*short, *(long if all_long or VARIANTS[key].long else ())] for key in keys}
    twins = {key: VARIANTS[key].equal_to for key in keys if VARIANTS[key].equal_to in keys}
    first = [(key, case) for key in keys for case in (cases[key][:1] if key in twins else cases[key])]
    pictured = BASE if BASE in keys else keys[0]
    readings = _read_all(setup, first, pictured, workers, say)
    same = {key for key, twin in twins.items() if readings[key, short[0]].digest == readings[twin, short[0]].digest}
    readings |= _read_all(setup, [(key, case) for key in twins if key not in same for case in cases[key][1:]], pictured, workers, say)
    found = {}
    for key in keys:
        source = twins[key] if key in same else key
        of_short, of_long = ([readings[source, case] for case in group if case in cases[key]] for group in (short, long))
        found[key] = Results(of_short, of_long, key in same)
    return found


def _read_all(
    setup: Setup, tasks: list[tuple[str, Case]], pictured: str, workers: int, say: Callable[[str], None]
) -> dict[tuple[str, Case], Reading]:
    """The readings of ``tasks``; those that are kept are not made again. The cheapest first, so that most is there after a stop."""
    readings = {task: found for task in tasks if (found := setup.kept.find(setup.place(*task)))}
    if readings:
        say(f"{len(readings)} of {len(tasks)} videos were made before.")
    readings = {task: reading if task[0] == pictured else reading.without_pictures() for task, reading in readings.items()}
    tasks = sorted((task for task in tasks if task not in readings), key=lambda task: setup.work(*task))
    total, done, began = sum(setup.work(*task) for task in tasks), 0.0, time.monotonic()

    def note(task: tuple[str, Case], reading: Reading) -> None:
        nonlocal done
        readings[task] = reading if task[0] == pictured else reading.without_pictures()
        done += setup.work(*task)
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
