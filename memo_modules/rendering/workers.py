"""Who renders: this process, several on this machine, or actors of a Ray cluster. More machines may run the same program.

Jobs are claimed in the folder of the results, so that machines come and go, and what one of them had begun another continues.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..crew.running import DEATHS, Crew, Gone, Later, run_crew, run_here
from .folder import ResultFolder, Say
from .jobs import Job
from .renderer import Models, Renderer

Keyed = tuple[str, Job]
"""A job with its key, see Job.key."""


@dataclass(frozen=True)
class Rendering:
    """The Work of a crew: makes the video of a Keyed in the folder ``root``, if nobody has. since, upload: see ResultFolder. threads: on the CPU.

    The answer is how it ended, or Later. Raises MemoError when the models cannot be loaded, and StorageError when the disk takes no more.
    """

    root: Path
    since: float
    models: Models
    device: str
    threads: int
    upload: str = ""

    def start(self, say: Say, check_interrupt: Callable[[], None] = lambda: None) -> Callable[[Keyed], bool | Later]:
        torch.set_num_threads(min(torch.get_num_threads(), self.threads))
        folder = ResultFolder(self.root, self.since, self.upload)
        renderer = Renderer(self.models.load(self.device), folder, say, check_interrupt)
        say({"event": "ready", "device": self.device})

        def render(keyed: Keyed) -> bool | Later:
            key, job = keyed
            check_interrupt()
            if not folder.is_open(key):
                return True
            with folder.claimed(key) as claimed:
                if not claimed:
                    return Later()
                if folder.is_open(key):  # another may have finished it meanwhile
                    renderer.render(key, job)
                return True

        return render


def open_jobs(jobs: Mapping[str, Job], folder: ResultFolder) -> list[Keyed]:
    """Those that are neither done nor failed in this run."""
    return [(key, job) for key, job in jobs.items() if folder.is_open(key)]


def render_here(rendering: Rendering, jobs: Sequence[Keyed], say: Say = lambda event: None) -> None:
    """Make the videos of ``jobs`` in this process. Raises MemoError, see Rendering."""
    for _ in run_here(rendering, jobs, say):
        pass


def render_in_crew(crew: Crew, workers: int, jobs: Sequence[Keyed], folder: ResultFolder, say: Say = lambda event: None) -> None:
    """The same with at most ``workers`` of ``crew``, see run_crew."""

    def said(event: tuple[int, Mapping[str, Any]]) -> None:
        place, what = event
        say({**what, "worker": place})

    with closing(run_crew(crew, workers, jobs, said)) as answers:
        for (key, job), answer in answers:
            if isinstance(answer, Gone):
                reason = f"{DEATHS} workers died on it ({answer.reason}): out of memory, or one of its files crashes a decoder."
                folder.failed(key, job.output, reason)
                say({"event": "failed", "job": key, "output": job.output, "reason": reason})


def renderings(rendering: Rendering, workers: int, devices: Sequence[str]) -> list[Rendering]:
    """``rendering`` for each of ``workers``, on one of ``devices`` in turn."""
    threads = max(1, rendering.threads // workers)
    return [replace(rendering, device=devices[number % len(devices)], threads=threads) for number in range(workers)]
