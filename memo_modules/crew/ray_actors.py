"""Workers that are actors of a Ray cluster, to whose machines Ray takes this package. What jobs name is to be found there under the same paths.

Actors for which the cluster has no room yet wait for it: a machine that joins takes them, and one that is lost has its actors started anew
where there is room.
"""

import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ..errors import MemoError, MissingPackageError
from ..words import first_line
from .running import Crew, Gone, Ready, Said, Work

LOCAL = "local"
"""The address that starts a cluster on this machine, which ends with the work."""

PATIENCE = 300.0
"""Seconds for which to wait for room in the cluster: one that grows by itself first has to start machines."""

_ANSWERED_WITHIN = 20.0
"""Seconds."""

_log = logging.getLogger(__name__)


class RayActors(Crew):
    """address: of the cluster, "auto" for the one that this machine belongs to, or LOCAL. gpus: of each worker, parts of one included; it has
    one CPU. patience: seconds for which to wait for room in the cluster. Raises MissingPackageError, and MemoError when there is no cluster at
    the address; messages raises it when there was no room."""

    def __init__(self, address: str, workers: int, work: Work, gpus: float = 0.0, patience: float = PATIENCE):
        self._ray = ray = _import_ray()
        _check_answers(address)
        self._folder = tempfile.mkdtemp(prefix="ray_") if address == LOCAL else None
        # Ray takes the code to machines that do not have it: the pack is not an installed package.
        environment = {"py_modules": list(sys.modules[__name__.split(".")[0]].__path__), "excludes": ["__pycache__"]}
        started_here = {"num_cpus": workers, "include_dashboard": False, "_temp_dir": self._folder} if self._folder else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", runtime_env=environment, **started_here)
        except Exception as error:  # Ray raises bare ones
            self.close()
            raise MemoError(f"--ray: no cluster could be reached or started at {address!r} ({first_line(error)}).") from error
        self._needs = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        self._class = ray.remote(_Actor).options(num_cpus=1, num_gpus=gpus)
        self._work = ray.put(work)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self._entering: set[int] = set()  # places whose actor waits for room in the cluster
        self._patience, self._heard = patience, time.monotonic()
        if missing := self._missing():
            _log.warning("--ray: %s Waiting up to %.0f s for it.", missing, patience)

    def hire(self, place: int) -> None:
        self._actors[place] = actor = self._class.remote()
        self._entering.add(place)
        self._calls[actor.enter.remote()] = place

    def ask(self, place: int, job: Any) -> None:
        self._calls[self._actors[place].answer.remote(job)] = place

    def messages(self, seconds: float) -> list[tuple[int, Any]]:
        if not self._calls:
            time.sleep(seconds)
            return []
        done, _ = self._ray.wait(list(self._calls), timeout=seconds)
        if done or any(place not in self._entering for place in self._calls.values()):
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > self._patience:
            raise MemoError(f"--ray: no machine had room for a worker in {self._patience:.0f} s. {self._missing() or 'Is other work in its way?'}")
        found = []
        for call in done:
            place = self._calls.pop(call)
            found += [(place, message) for message in self._answer(call, place)]
        return found

    def _answer(self, call: Any, place: int) -> list[Any]:
        errors, entered = self._ray.exceptions, place in self._entering
        self._entering.discard(place)
        try:
            messages = self._ray.get(call)
        except errors.RayActorError as error:
            return [Gone(first_line(error))]
        except errors.RayError as error:
            return [MemoError(f"A worker failed: {error}")]
        if entered:
            self._calls[self._actors[place].load.remote(self._work)] = place
        return messages

    def _missing(self) -> str:
        """What no machine of the cluster has, in a sentence; nothing where one has all that a worker takes."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(all(machine.get(name, 0) >= amount for name, amount in self._needs.items()) for machine in machines):
            return ""
        needs = " and ".join(f"{amount:g} {name}" for name, amount in self._needs.items())
        there = "; ".join(", ".join(f"{machine.get(name, 0):g} {name}" for name in ("CPU", "GPU")) for machine in machines)
        return f"A worker takes {needs}, and no machine of the cluster has that ({there or 'there is none'})."

    def close(self) -> None:
        self._ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _check_answers(address: str) -> None:
    """Raises MemoError where nobody listens at HOST:PORT, for which Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERED_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise MemoError(f"--ray: nobody answers at {address} ({first_line(error)}). Start the cluster there: ray start --head.") from error


class _Actor:
    """A worker: what it receives and returns are lists of messages."""

    def __init__(self):
        self.said: list[Any] = []
        self.answer_to: Callable[[Any], Any] | None = None

    def enter(self) -> list[Any]:
        return []

    def load(self, work: Work) -> list[Any]:
        def start() -> Ready:
            self.answer_to = work.start(self.said.append)
            return Ready()

        return self._messages(start)

    def answer(self, job: Any) -> list[Any]:
        assert self.answer_to, "it has been loaded"
        answer_to = self.answer_to
        return self._messages(lambda: answer_to(job))

    def _messages(self, make: Callable[[], Any]) -> list[Any]:
        """What was said meanwhile, and what ``make`` returns, or the error of the run that it raises."""
        try:
            last = make()
        except MemoError as error:
            last = error
        said, self.said[:] = [Said(event) for event in self.said], []
        return [*said, last]


def _import_ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # unless the user wants it, nothing is reported to Ray's makers
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(f"--ray needs Ray ({error}): pip install ray") from error
    return ray
