"""Rendering on machines that share no folder with this one: image and voice go there with the job, and the video comes back.

What is claimed, done or failed is written here alone. A video whose machine is lost is begun anew.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..crew.running import Crew, Gone, Later, Said
from ..errors import InputError, MemoError, StorageError
from ..files.whole_files import storing
from .folder import ResultFolder, Say
from .jobs import Job
from .renderer import Models, Renderer
from .workers import Keyed


@dataclass(frozen=True)
class Parcel:
    """A job with all that it takes. image, audio: what is in the files."""

    key: str
    job: Job
    image: bytes
    audio: bytes


@dataclass(frozen=True)
class Made:
    """The answer to a Parcel. video: what is in the file, with the ``facts`` of its line; None where it failed, for ``reason``."""

    video: bytes | None
    facts: dict[str, Any]
    reason: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """The Work of a crew on other machines: a Parcel to what was Made of it. models: as they lie there. threads: on the CPU."""

    models: Models
    device: str
    threads: int

    def start(self, say: Say) -> Callable[[Parcel], Made]:
        torch.set_num_threads(min(torch.get_num_threads(), self.threads))
        scratch = tempfile.TemporaryDirectory(prefix="memo_render_")
        place = Path(scratch.name)
        folder = ResultFolder(place / "videos")

        def tell(event: Mapping[str, Any]) -> None:
            if event["event"] not in ("done", "failed"):  # which it is when the folder here says so
                say(event)

        renderer = Renderer(self.models.load(self.device), folder, tell)
        say({"event": "ready", "device": self.device})

        def render(parcel: Parcel, scratch: Any = scratch) -> Made:
            job = parcel.job
            files = {"image": parcel.image, "audio": parcel.audio}
            inputs = {name: place / f"{parcel.key}_{name}{getattr(job, name).suffix}" for name in files}
            for name, path in inputs.items():
                with storing(path):
                    path.write_bytes(files[name])
            renderer.render(parcel.key, replace(job, **inputs))
            for path in inputs.values():
                path.unlink()
            if reason := folder.failure(parcel.key):
                return Made(None, {}, reason)
            video = folder.root / job.output
            content = video.read_bytes()
            video.unlink()
            return Made(content, folder.line(parcel.key))

        return render


class Carrying(Crew):
    """A ``crew`` that does Elsewhere, with jobs and answers as those of Rendering in ``folder``."""

    def __init__(self, crew: Crew, folder: ResultFolder):
        self._crew, self._folder = crew, folder
        self._claims: dict[int, tuple[Keyed, AbstractContextManager]] = {}
        self._told: list[tuple[int, Any]] = []

    def hire(self, place: int) -> None:
        self._crew.hire(place)

    def ask(self, place: int, job: Keyed) -> None:
        key, what = job
        claim = self._folder.claimed(key)
        if not claim.__enter__():
            claim.__exit__(None, None, None)
            self._told.append((place, Later()))
            return
        self._claims[place] = job, claim
        try:
            if not self._folder.is_open(key) or self._folder.recover(key):
                self._told.append((place, self._end(place, True)))
                return
            self._folder.target(what)
            self._crew.ask(place, Parcel(key, what, what.image.read_bytes(), what.audio.read_bytes()))
        except StorageError:  # of the disk here, and no fault of the job
            raise
        except (MemoError, OSError) as error:
            self._told += [(place, self._failed(key, what, str(error))), (place, self._end(place, True))]

    def _failed(self, key: str, job: Job, reason: str) -> Said:
        self._folder.failed(key, job.output, reason)
        return Said({"event": "failed", "job": key, "output": job.output, "reason": reason})

    def _end(self, place: int, answer: Any) -> Any:
        _, claim = self._claims.pop(place)
        claim.__exit__(None, None, None)
        return answer

    def messages(self, seconds: float) -> list[tuple[int, Any]]:
        told, self._told = self._told, []
        for place, message in self._crew.messages(0 if told else seconds):
            told += [(place, each) for each in self._heard(place, message)]
        return told

    def _heard(self, place: int, message: Any) -> list[Any]:
        if isinstance(message, Gone) and place in self._claims:
            return [self._end(place, message)]
        if not isinstance(message, Made):
            return [message]
        (key, job), _ = self._claims[place]
        if message.video is None:
            return [self._failed(key, job, message.reason), self._end(place, True)]
        try:
            self._folder.take(key, job, message.video, message.facts)
        except InputError as error:  # another file has its name by now
            return [self._failed(key, job, str(error)), self._end(place, True)]
        done = Said({"event": "done", "job": key, "output": job.output, **{name: message.facts[name] for name in ("frames", "made", "seconds")}})
        return [done, self._end(place, True)]

    def close(self) -> None:
        for place in list(self._claims):
            self._end(place, None)
        self._crew.close()
