"""Workers that are actors of a Ray cluster. What jobs name, models, output and this package, has the same paths on every machine.

Actors for which the cluster has no room yet wait for it: a machine that joins takes them, and one that is lost has its actors started anew
where there is room.
"""

import logging
import os
import pickle
import shutil
import socket
import sys
import tempfile
import time
from typing import Any

from ..errors import MemoError, MissingPackageError
from ..words import first_line
from .running import Crew, Gone, Work

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
        started_here = {"num_cpus": workers, "include_dashboard": False, "_temp_dir": self._folder} if self._folder else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **started_here)
        except Exception as error:  # Ray raises bare ones
            self.close()
            raise MemoError(f"--ray: no cluster could be reached or started at {address!r} ({first_line(error)}).") from error
        self._needs = {"CPU": 1.0} | ({"GPU": gpus} if gpus else {})
        # Code that the machines of a cluster cannot import is sent by value: the pack is not an installed package.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._class = ray.remote(_Actor).options(num_cpus=1, num_gpus=gpus)
        name = __name__.split(".")[0]
        self._package = (name, list(sys.modules[name].__path__))
        self._work = pickle.dumps(work)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self._entering: set[int] = set()  # places whose actor waits for room in the cluster
        self._patience, self._heard = patience, time.monotonic()
        if missing := self._missing():
            _log.warning("--ray: %s Waiting up to %.0f s for it.", missing, patience)

    def hire(self, place: int) -> None:
        self._actors[place] = actor = self._class.remote(*self._package)
        self._entering.add(place)
        self._calls[actor.enter.remote()] = place

    def ask(self, place: int, job: Any) -> None:
        self._calls[self._actors[place].answer.remote(pickle.dumps(job))] = place

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
            messages = pickle.loads(self._ray.get(call))
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
    """A worker. It cannot import the pack before it is told where that is, so everything it receives and returns is pickled inside it: lists of
    messages."""

    def __init__(self, package: str, path: list[str]):
        import sys
        from importlib.util import module_from_spec, spec_from_file_location

        if package not in sys.modules:
            spec = spec_from_file_location(package, f"{path[0]}/__init__.py", submodule_search_locations=path)
            assert spec and spec.loader  # as for any file that ends in .py
            sys.modules[package] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[package])
        self.package, self.said, self.answer_to = package, [], None

    def enter(self) -> bytes:
        import pickle

        return pickle.dumps([])

    def load(self, work: bytes) -> bytes:
        import pickle

        def start():
            self.answer_to = pickle.loads(work).start(self.said.append)
            return self.running.Ready()

        return self._messages(start)

    def answer(self, job: bytes) -> bytes:
        import pickle

        assert self.answer_to, "it has been loaded"
        answer_to = self.answer_to
        return self._messages(lambda: answer_to(pickle.loads(job)))

    @property
    def running(self):
        from importlib import import_module

        return import_module(f"{self.package}.crew.running")

    def _messages(self, make) -> bytes:
        """What was said meanwhile, and what ``make`` returns, or the error of the run that it raises."""
        import pickle
        from importlib import import_module

        try:
            last = make()
        except import_module(f"{self.package}.errors").MemoError as error:
            last = error
        said, self.said[:] = [self.running.Said(event) for event in self.said], []
        return pickle.dumps([*said, last])


def _import_ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # unless the user wants it, nothing is reported to Ray's makers
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(f"--ray needs Ray ({error}): pip install ray") from error
    return ray
