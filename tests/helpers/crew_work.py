"""Work for crews that loads nothing: answers a job with its double, and does what some jobs ask for. Importable, so that workers find it."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memo_modules.crew.running import Later
from memo_modules.errors import MemoError


@dataclass(frozen=True)
class Doubling:
    """folder: has a line in `log` for each job that was begun. seconds: that each takes."""

    folder: Path
    seconds: float = 0.0

    def start(self, say: Callable) -> Callable:
        if (self.folder / "no_start").exists():
            os.kill(os.getpid(), signal.SIGKILL)

        def answer(job):
            with (self.folder / "log").open("a", encoding="utf-8") as log:
                log.write(f"{job}\n")
            say(f"begun {job}")
            time.sleep(self.seconds)
            if job == "dies" or (job == "dies once" and self._is_first(job)):
                os.kill(os.getpid(), signal.SIGKILL)
            if job == "fails":
                raise MemoError("the disk is full")
            if job == "breaks":
                raise ValueError("unexpected")
            if job == "busy" and self._is_first(job):
                return Later()
            return job * 2

        return answer

    def _is_first(self, job: str) -> bool:
        return (self.folder / "log").read_text(encoding="utf-8").splitlines().count(job) == 1
