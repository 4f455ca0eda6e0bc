"""Workers that are processes of this machine; the program that starts them must be one that they can import again."""

import logging
import multiprocessing
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from ..errors import MemoError
from ..words import first_line
from .running import Crew, Gone, Ready, Said, Work


class Processes(Crew):
    """works: what each does, by its place, in turn."""

    def __init__(self, works: Sequence[Work]):
        self._works = works
        self.processes: dict[int, SpawnProcess] = {}
        self._lines: dict[int, Connection] = {}

    def hire(self, place: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._works[place % len(self._works)]), daemon=True)
        process.start()
        theirs.close()  # our end then notices when theirs is closed
        self.processes[place], self._lines[place] = process, ours

    def ask(self, place: int, job: Any) -> None:
        with suppress(ConnectionError):  # it has died; messages says so
            self._lines[place].send(job)

    def messages(self, seconds: float) -> list[tuple[int, Any]]:
        if not self._lines:
            time.sleep(seconds)
        heard = wait(list(self._lines.values()), seconds) if self._lines else []
        return [(place, self._message(place)) for place, line in list(self._lines.items()) if line in heard]

    def _message(self, place: int) -> Any:
        try:
            return self._lines[place].recv()
        except (EOFError, ConnectionError):
            del self._lines[place]
            process = self.processes.pop(place)
            process.join()
            return Gone(f"exit code {process.exitcode}")

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join()


def _serve(line: Connection, work: Work) -> None:
    """The life of a worker process, which ends when the one that started it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started this one ends it
    try:
        answer_to = work.start(lambda event: line.send(Said(event)))
        line.send(Ready())
        while True:
            line.send(answer_to(line.recv()))
    except (EOFError, ConnectionError):
        return
    except MemoError as error:
        line.send(error)
    except Exception as error:
        logging.exception("A worker failed.")
        line.send(MemoError(f"A worker failed: {type(error).__name__}: {first_line(error)}"))
