"""Who renders: this process, or several on this machine, each with its own models on its own device. More machines run the same program.

Nobody hands out the jobs: every worker goes through all of them, claims what nobody has claimed, and waits for the rest until it is done or
its worker is gone. So machines come and go, and what one of them had begun another continues.
"""

import logging
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from ..errors import MemoError
from ..words import first_line
from .folder import ResultFolder, Say
from .jobs import Job
from .renderer import Models, Renderer

DEATHS = 3
"""Workers that may die on a job, as with a decoder that crashes, before it counts as failed; and before any was ready."""

_POLL = 0.5
"""Seconds between two looks at jobs that others have claimed."""

_log = logging.getLogger(__name__)

Jobs = Sequence[tuple[str, Job]]
"""With their keys, see Job.key."""


@dataclass(frozen=True)
class Task:
    """What a worker is told. root: of the results. since: see ResultFolder. threads: on the CPU."""

    jobs: Jobs
    root: Path
    since: float
    models: Models
    device: str
    threads: int


def work(task: Task, say: Say = lambda event: None, check_interrupt: Callable[[], None] = lambda: None) -> None:
    """Render what of the jobs nobody has rendered, until all are done or have failed. Raises MemoError when the models cannot be loaded, and
    StorageError when the disk takes no more."""
    torch.set_num_threads(min(torch.get_num_threads(), task.threads))
    folder = ResultFolder(task.root, task.since)
    if not any(_is_open(folder, key) for key, _ in task.jobs):
        return
    renderer = Renderer(task.models.load(task.device), folder, say, check_interrupt)
    say({"event": "ready", "device": task.device})
    for key, job in _claimed(folder, task.jobs, check_interrupt):
        renderer.render(key, job)


def _is_open(folder: ResultFolder, key: str) -> bool:
    return not folder.is_done(key) and folder.failure(key) is None


def _claimed(folder: ResultFolder, jobs: Jobs, check_interrupt: Callable[[], None]) -> Iterator[tuple[str, Job]]:
    """One job after the other that is this process's own until the next is asked for."""
    left = list(jobs)
    while left:
        others = []
        for key, job in left:
            check_interrupt()
            if not _is_open(folder, key):
                continue
            with folder.claimed(key) as claimed:
                if claimed and _is_open(folder, key):  # another may have finished it meanwhile
                    yield key, job
                elif not claimed:
                    others.append((key, job))
        left = others
        if left:
            time.sleep(_POLL)


def work_in_processes(tasks: Sequence[Task], say: Say = lambda event: None) -> None:
    """A worker process for each of ``tasks``, which differ in their devices, until all jobs are done or have failed. A worker that dies is
    replaced, and its job tried again; it fails when DEATHS have died on it.

    Raises MemoError when a worker says so, or when no worker becomes ready; the other workers end then.
    """
    crew = _Crew(say)
    folder, died_on, died_loading = ResultFolder(tasks[0].root, tasks[0].since), Counter(), 0
    try:
        for number, task in enumerate(tasks):
            crew.hire(number, task)
        while crew.workers:
            for worker, code in crew.listen():
                if code is None:
                    continue
                key, ready = worker.job, worker.ready
                if key is None:
                    died_loading += not ready
                    if died_loading >= DEATHS:
                        raise MemoError(f"A worker died while it loaded the models ({code}). Is there enough memory for {len(tasks)}?")
                else:
                    died_on[key] += 1
                    _log.warning("A worker died on %s (%s).", worker.output, code)
                    if died_on[key] >= DEATHS:
                        reason = f"{DEATHS} workers died on it ({code}): out of memory, or one of its files crashes a decoder."
                        folder.failed(key, worker.output, reason)
                        say({"event": "failed", "job": key, "output": worker.output, "reason": reason, "worker": worker.number})
                crew.hire(worker.number, worker.task)
    finally:
        crew.close()


@dataclass
class _Worker:
    number: int
    task: Task
    process: SpawnProcess
    job: str | None = None
    output: str = ""
    ready: bool = False


class _Crew:
    """Worker processes and what they say."""

    def __init__(self, say: Say):
        self.say = say
        self.workers: dict[Connection, _Worker] = {}

    def hire(self, number: int, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, task), daemon=True)
        process.start()
        theirs.close()  # our end then notices when theirs is closed
        self.workers[ours] = _Worker(number, task, process)

    def listen(self) -> list[tuple[_Worker, str | None]]:
        """Wait until workers have something to say and pass it on; those that have died, with their exit code in words. Raises their errors."""
        found = []
        heard = wait(list(self.workers), timeout=1)
        for connection in [each for each in self.workers if each in heard]:
            worker = self.workers[connection]
            try:
                event = connection.recv()
            except (EOFError, ConnectionError):
                del self.workers[connection]
                worker.process.join()
                found.append((worker, f"exit code {worker.process.exitcode}"))
                continue
            if isinstance(event, MemoError):
                raise event
            if event["event"] == "end":
                del self.workers[connection]
                worker.process.join()
                continue
            self._note(worker, event)
            self.say({**event, "worker": worker.number})
        return found

    def _note(self, worker: _Worker, event: dict[str, Any]) -> None:
        worker.ready = True
        if event["event"] == "started":
            worker.job, worker.output = event["job"], event["output"]
        elif event["event"] in ("done", "failed"):
            worker.job = None

    def close(self) -> None:
        """End them; what they were at continues with the next run."""
        for worker in self.workers.values():
            worker.process.terminate()
        for worker in self.workers.values():
            worker.process.join()


def _serve(connection: Connection, task: Task) -> None:
    """The life of a worker process, which ends when the one that started it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started this one ends it
    try:
        work(task, connection.send)
        connection.send({"event": "end"})
    except ConnectionError:
        return
    except MemoError as error:
        with suppress(ConnectionError):
            connection.send(error)
    except Exception as error:
        logging.exception("A worker failed.")
        with suppress(ConnectionError):
            connection.send(MemoError(f"A worker failed: {type(error).__name__}: {first_line(error)}"))


def tasks_for(task: Task, workers: int, devices: Sequence[str]) -> list[Task]:
    """``task`` for each of ``workers``, on one of ``devices`` in turn."""
    return [replace(task, device=devices[number % len(devices)], threads=max(1, task.threads // workers)) for number in range(workers)]
