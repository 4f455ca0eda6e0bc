"""Workers that are actors of a Ray cluster. Videos, models, output and this package have the same paths on every machine."""

import os
import pickle
import shutil
import sys
import tempfile
from typing import Any

from ..errors import MemoError, MissingPackageError
from ..words import first_line
from .preparer import Job, Settings
from .workers import Answer, Crew, Gone

LOCAL = "local"
"""The address that starts a cluster on this machine, which ends with the work."""


class RayActors(Crew):
    """One CPU each, and on CUDA one GPU. address: of the cluster, "auto" for the one that this machine belongs to, or LOCAL.

    Raises MissingPackageError, and MemoError when there is no cluster at the address.
    """

    def __init__(self, address: str, workers: int, settings: Settings):
        self._ray = ray = _import_ray()
        self._folder = tempfile.mkdtemp(prefix="ray_") if address == LOCAL else None
        started_here = {"num_cpus": workers, "include_dashboard": False, "_temp_dir": self._folder} if self._folder else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **started_here)
        except Exception as error:  # Ray raises bare ones
            self.close()
            raise MemoError(f"Ray: no cluster could be reached or started at {address!r} ({error}).") from error
        # Code that the machines of a cluster cannot import is sent by value: the pack is not an installed package.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._actor = ray.remote(_Actor).options(num_cpus=1, num_gpus=int(settings.device.startswith("cuda")))
        name = __name__.split(".")[0]
        self._package = (name, list(sys.modules[name].__path__))
        self._settings = pickle.dumps(settings)
        self._calls = {}

    def hire(self) -> None:
        actor = self._actor.remote(*self._package)
        self._calls[actor.load.remote(self._settings)] = actor

    def ask(self, worker: Any, job: Job) -> None:
        self._calls[worker.prepare.remote(pickle.dumps(job))] = worker

    def answers(self) -> list[tuple[Any, Answer]]:
        done, _ = self._ray.wait(list(self._calls))
        return [(self._calls.pop(call), self._answer(call)) for call in done]

    def _answer(self, call: Any) -> Answer:
        errors = self._ray.exceptions
        try:
            return pickle.loads(self._ray.get(call))
        except errors.RayActorError as error:
            return Gone(first_line(error))
        except errors.RayError as error:
            return MemoError(f"A worker failed: {error}")

    def close(self) -> None:
        self._ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Actor:
    """A worker. It cannot import the pack before it is told where that is, so everything it receives and returns is pickled inside it."""

    def __init__(self, package: str, path: list[str]):
        import sys
        from importlib.util import module_from_spec, spec_from_file_location

        if package not in sys.modules:
            spec = spec_from_file_location(package, f"{path[0]}/__init__.py", submodule_search_locations=path)
            assert spec and spec.loader  # as for any file that ends in .py
            sys.modules[package] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[package])
        self.package = package

    def load(self, settings: bytes) -> bytes:
        import pickle
        from importlib import import_module

        import torch

        torch.set_num_threads(1)
        preparation = f"{self.package}.preparation"
        self.preparer = import_module(f"{preparation}.preparer").Preparer(pickle.loads(settings))
        return pickle.dumps(import_module(f"{preparation}.workers").Ready())

    def prepare(self, job: bytes) -> bytes:
        import pickle

        return pickle.dumps(self.preparer.prepare(pickle.loads(job)))


def _import_ray():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # unless the user wants it, nothing is reported to Ray's makers
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(f"--ray needs Ray ({error}): pip install ray") from error
    return ray
