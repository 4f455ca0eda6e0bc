"""Who prepares videos: this process, several on this machine, or actors of a Ray cluster. Files and lines are the same.

Every worker loads the models once and computes on one thread, so that results do not depend on how many there are. If
one dies during a video, as in a decoder that crashes on a damaged file, that video fails, and another worker replaces it.
"""

import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from ..errors import MemoError
from .preparer import Job, Outcome, Preparer, Settings


@dataclass(frozen=True)
class Ready:
    """The first message of a worker: its models are loaded."""


@dataclass(frozen=True)
class Gone:
    """The message for a worker that has died. reason: why, in words."""

    reason: str


Answer = Ready | Gone | Outcome | MemoError
"""Of a worker; an error is raised where the outcomes are collected."""


class Crew(ABC):
    """Workers, each of which answers Ready, and then every job with an Outcome."""

    @abstractmethod
    def hire(self) -> None:
        """Start another worker."""

    @abstractmethod
    def ask(self, worker: Any, job: Job) -> None:
        """Give a worker a job."""

    @abstractmethod
    def answers(self) -> list[tuple[Any, Answer]]:
        """Wait until a worker has answered; returns which worker, and its answer."""

    @abstractmethod
    def close(self) -> None:
        """End all workers, whatever they are doing."""


def run_here(settings: Settings, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """Outcomes of ``jobs``, in their order, from this process."""
    if not jobs:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        preparer = Preparer(settings)
        for job in jobs:
            yield preparer.prepare(job)
    finally:
        torch.set_num_threads(threads)


def run_crew(crew: Crew, workers: int, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """Outcomes of ``jobs``, as they come, from at most that many workers. Raises what a worker raised, and MemoError when
    one is gone before it was ready."""
    waiting, at_work, left = deque(jobs), {}, len(jobs)
    with closing(crew):
        for _ in range(min(workers, left)):
            crew.hire()
        while left:
            for worker, answer in crew.answers():
                job = at_work.pop(worker, None)
                if isinstance(answer, Exception):
                    raise answer
                if isinstance(answer, Gone):
                    if job is None:
                        raise MemoError(f"A worker ended while it loaded the models ({answer.reason}). Is there enough memory for {workers}?")
                    if waiting:
                        crew.hire()
                    answer = Outcome(job, reason=f"a worker died on it ({answer.reason}): out of memory, or the file crashes a decoder.")
                elif waiting:
                    at_work[worker] = waiting.popleft()
                    crew.ask(worker, at_work[worker])
                if isinstance(answer, Outcome):
                    left -= 1
                    yield answer


class Processes(Crew):
    """Processes of this machine; the program that starts them must be one that they can import again."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._processes: dict[Connection, SpawnProcess] = {}

    def hire(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._settings), daemon=True)
        process.start()
        theirs.close()  # our end then notices when theirs is closed
        self._processes[ours] = process

    def ask(self, worker: Connection, job: Job) -> None:
        worker.send(job)

    def answers(self) -> list[tuple[Connection, Answer]]:
        ready = set(wait(list(self._processes)))
        return [(worker, self._answer(worker)) for worker in list(self._processes) if worker in ready]

    def _answer(self, worker: Connection) -> Answer:
        try:
            return worker.recv()
        except (EOFError, ConnectionError):
            process = self._processes.pop(worker)
            process.join()
            return Gone(f"exit code {process.exitcode}")

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join()


def _serve(connection: Connection, settings: Settings) -> None:
    """The life of a worker process, which ends when the one that started it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started this one ends it
    torch.set_num_threads(1)
    try:
        preparer = Preparer(settings)
        connection.send(Ready())
        while True:
            connection.send(preparer.prepare(connection.recv()))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        connection.send(error if isinstance(error, MemoError) else MemoError(f"A worker failed: {type(error).__name__}: {error}"))
