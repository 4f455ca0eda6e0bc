"""How jobs get to workers, whoever they are, and what happens when one of them dies.

Every worker starts a Work once, which loads its models, and then answers one job after the other. One that dies is replaced, and its job
tried again; a job on which DEATHS have died gets Gone for an answer, and so does nobody else's.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ..errors import MemoError

DEATHS = 3
"""Workers that may die on a job, as with a decoder that crashes, before it counts as failed; and before any was ready."""

POLL = 0.5
"""Seconds between two looks at jobs on which others are at work."""

Job = TypeVar("Job")
Say = Callable[[Any], None]


class Work(Protocol):
    """What workers do; it is pickled to get to them."""

    def start(self, say: Say) -> Callable[[Any], Any]:
        """Load what is needed, once; returns what answers a job. say: takes what happens meanwhile. A MemoError, of either, ends the run."""
        ...


@dataclass(frozen=True)
class Ready:
    """The first message of a worker: its Work has started."""


@dataclass(frozen=True)
class Said:
    """A message in the middle of a job."""

    event: Any


@dataclass(frozen=True)
class Gone:
    """The message for a worker that has died. reason: why, in words."""

    reason: str


@dataclass(frozen=True)
class Later:
    """The answer to a job on which another program is at work: it is asked for again."""


class Crew(ABC):
    """Workers in numbered places, each of which says Ready, and then answers every job. Any message may be a MemoError."""

    @abstractmethod
    def hire(self, place: int) -> None:
        """Start a worker in a place that is free."""

    @abstractmethod
    def ask(self, place: int, job: Any) -> None:
        """Give a worker a job."""

    @abstractmethod
    def messages(self, seconds: float) -> list[tuple[int, Any]]:
        """Wait up to ``seconds`` until workers have something to say; each message with the place of its worker."""

    @abstractmethod
    def close(self) -> None:
        """End all workers, whatever they are doing."""


def run_here(work: Work, jobs: Sequence[Job], say: Say = lambda event: None) -> Generator[tuple[Job, Any], None, None]:
    """Jobs with their answers, in their order but for those that were busy, from this process."""
    if not jobs:
        return
    answer_to, left = work.start(say), list(jobs)
    while left:
        busy = []
        for job in left:
            answer = answer_to(job)
            if isinstance(answer, Later):
                busy.append(job)
            else:
                yield job, answer
        left = busy
        if left:
            time.sleep(POLL)


def run_crew(crew: Crew, workers: int, jobs: Sequence[Job], say: Say = lambda event: None) -> Generator[tuple[Job, Any], None, None]:
    """Jobs with their answers, as they come, from at most that many workers; Gone for a job on which DEATHS have died. say: takes what workers
    say, as (place, event).

    Raises what a worker raised, and MemoError when DEATHS are gone before any was ready.
    """
    return _Run(crew, workers, list(jobs), say).answers()


class _Run(Generic[Job]):
    """Jobs by their number: ``waiting`` for a worker, ``busy`` elsewhere, with ``at_work`` by place."""

    def __init__(self, crew: Crew, workers: int, jobs: list[Job], say: Say):
        self.crew, self.jobs, self.say, self.left = crew, jobs, say, len(jobs)
        self.workers = min(workers, len(jobs))
        self.waiting, self.busy = deque(range(len(jobs))), deque()
        self.at_work: dict[int, int] = {}
        self.idle: list[int] = []
        self.died_on, self.died_loading, self.any_ready = Counter(), 0, False
        self.looked = time.monotonic()

    def answers(self) -> Generator[tuple[Job, Any], None, None]:
        with closing(self.crew):
            for place in range(self.workers):
                self.crew.hire(place)
            while self.left:
                self._share_out()
                messages = self.crew.messages(POLL)
                for place, message in messages:
                    for number, answer in self._heard(place, message):
                        self.left -= 1
                        yield self.jobs[number], answer
                if time.monotonic() - self.looked >= POLL:  # of what is busy elsewhere some may be done by now
                    self.waiting, self.busy, self.looked = self.waiting + self.busy, deque(), time.monotonic()

    def _share_out(self) -> None:
        while self.idle and self.waiting:
            place = self.idle.pop()
            self.at_work[place] = self.waiting.popleft()
            self.crew.ask(place, self.jobs[self.at_work[place]])

    def _heard(self, place: int, message: Any) -> list[tuple[int, Any]]:
        """The job that is answered now, if one is."""
        if isinstance(message, MemoError):
            raise message
        if isinstance(message, Said):
            self.say((place, message.event))
            return []
        if isinstance(message, Ready):
            self.any_ready = True
            self.idle.append(place)
            return []
        number = self.at_work.pop(place, None)
        if isinstance(message, Gone):
            return self._gone(place, number, message)
        self.idle.append(place)
        if number is None:
            return []
        if isinstance(message, Later):
            self.busy.append(number)
            return []
        return [(number, message)]

    def _gone(self, place: int, number: int | None, message: Gone) -> list[tuple[int, Any]]:
        if place in self.idle:
            self.idle.remove(place)
        if number is None:
            self.died_loading += 1
            if self.died_loading >= DEATHS and not self.any_ready:
                raise MemoError(f"Workers died while they loaded the models ({message.reason}). Is there enough memory for {self.workers}?")
        else:
            self.died_on[number] += 1
        failed = number is not None and self.died_on[number] >= DEATHS
        if number is not None and not failed:
            self.waiting.appendleft(number)
        if self.left > failed and self.died_loading < DEATHS * self.workers:
            self.crew.hire(place)
        elif self.left > failed and not self.at_work and not self.idle:
            raise MemoError(f"Workers keep dying ({message.reason}). Is there enough memory for {self.workers}?")
        return [(number, message)] if failed and number is not None else []
