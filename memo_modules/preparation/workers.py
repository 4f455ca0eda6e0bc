"""Who prepares videos: this process, or a crew. Files and lines are the same.

Every worker loads the models once and computes on one thread, so that results do not depend on how many there are.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from ..crew.running import Crew, Gone, run_crew, run_here
from .preparer import Job, Outcome, Preparer, Settings


@dataclass(frozen=True)
class Preparation:
    """The Work of a crew: a Job to its Outcome."""

    settings: Settings

    def start(self, say: Callable[[Any], None]) -> Callable[[Job], Outcome]:
        torch.set_num_threads(1)
        return Preparer(self.settings).prepare


def prepare_here(settings: Settings, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """Outcomes of ``jobs``, in their order, from this process."""
    threads = torch.get_num_threads()
    try:
        yield from (outcome for _, outcome in run_here(Preparation(settings), jobs))
    finally:
        torch.set_num_threads(threads)


def prepare_in_crew(make: Callable[[], Crew], workers: int, jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """The same as they come, from at most that many workers of the crew that ``make`` makes, see run_crew."""
    if not jobs:
        return
    with closing(run_crew(make(), workers, jobs)) as answers:
        for job, answer in answers:
            if isinstance(answer, Gone):
                reason = f"workers died on it, one after the other ({answer.reason}): out of memory, or the file crashes a decoder."
                answer = Outcome(job, reason=reason)
            yield answer
