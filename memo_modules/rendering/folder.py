"""The folder of the results: what is done, what failed, and who is at work on what.

`done.jsonl` has a line for each video, `failed.jsonl` one for each job that cannot be made, with the reason. Everything else lies in
`.memo_render`: a lock for each job under way, videos that are not finished, and for a moment notes of files about to get their names.

A process may be killed at any moment, and others, on other machines, work in the same folder. A job is claimed by a lock that ends with the
process. Its file gets its name when it is whole, after a note of what that file is: whoever finds the note and the file, but no line,
writes the line. So no job is lost, and none made twice.

Where results belong into a store elsewhere, each is put there before its line is written, and the file here goes afterwards.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.documents import parse_json
from ..files.locks import locked
from ..files.remote import Store
from ..files.whole_files import move_new, storing, whole_file, write_whole
from ..video import unfinished
from ..weights.fingerprints import file_digest
from .jobs import Job

DONE, FAILED, INSIDE = "done.jsonl", "failed.jsonl", ".memo_render"

_PATIENCE = 120.0
"""Seconds for which to wait for others that write a line."""


class _Lines:
    """What is in a file of JSON lines that processes add to: the last line of each job. Half a line, of one that was killed, says nothing."""

    def __init__(self, path: Path):
        self.path, self.held, self._read, self._rest, self._file = path, {}, 0, b"", 0

    def refresh(self) -> dict[str, dict]:
        try:
            status = self.path.stat()
            size = status.st_size
            if size < self._read or status.st_ino != self._file:  # written anew
                self.held, self._read, self._rest, self._file = {}, 0, b"", status.st_ino
            if size > self._read:
                with self.path.open("rb") as file:
                    file.seek(self._read)
                    added = file.read()
                self._read += len(added)
                *lines, self._rest = (self._rest + added).split(b"\n")
                self.held |= {entry["job"]: entry for entry in map(_entry, lines) if entry}
        except FileNotFoundError:
            self.held = {}
        return self.held

    def add(self, entry: Mapping[str, Any]) -> None:
        """On the disk when this returns."""
        with storing(self.path), self.path.open("ab+") as file:
            file.seek(0, os.SEEK_END)
            torn = False
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _entry(line: bytes) -> dict | None:
    try:
        entry = parse_json(line.decode("utf-8"))
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("job"), str) else None


class ResultFolder:
    """``root``, made where it is not there. since: failures before that time are tried again. upload: the URL of a folder that gets the videos,
    see files.remote; "" for none. Raises StorageError when nothing can be written."""

    def __init__(self, root: Path, since: float | None = None, upload: str = ""):
        self.root, self.since = root, time.time() if since is None else since
        self._store = Store(upload) if upload else None
        self._gone: dict[str, dict] | None = None
        self.inside = root / INSIDE
        with storing(root):
            for name in ("claims", "notes"):
                (self.inside / name).mkdir(parents=True, exist_ok=True)
        self._done, self._failed = _Lines(root / DONE), _Lines(root / FAILED)

    @property
    def unfinished(self) -> Path:
        """Where videos that are not finished lie, see journal.opened."""
        return self.inside / "unfinished"

    def is_done(self, key: str) -> bool:
        entry = self._done.refresh().get(key)
        if entry is None or self._store is None:
            return entry is not None and (self.root / str(entry.get("output"))).is_file()
        if self._gone is None:  # asked for once: it is slow, and what is done later is there
            there = self._store.names()
            self._gone = {each: line for each, line in self._done.held.items() if line.get("output") not in there}
        return self._gone.get(key) != entry

    def failure(self, key: str) -> str | None:
        """Why the job failed in this run, of this process or another; None where it did not."""
        entry = self._failed.refresh().get(key)
        return str(entry.get("reason")) if entry and entry.get("time", 0) >= self.since else None

    def is_open(self, key: str) -> bool:
        """Whether it is neither done nor failed in this run."""
        return not self.is_done(key) and self.failure(key) is None

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Within, no other process works on the job; gives False, and nothing is claimed, where one does."""
        lock = self.inside / "claims" / f"{key[:32]}.lock"
        try:
            claim = locked(lock, _Busy.__name__)
            claim.__enter__()
        except InputError as error:
            if str(error) != _Busy.__name__:
                raise
            yield False
            return
        try:
            yield True
        finally:
            if self.is_done(key):
                with suppress(OSError):  # Windows removes no file that is open
                    lock.unlink()
            claim.__exit__(None, None, None)

    def recover(self, key: str) -> bool:
        """Whether the file of the job, which is claimed, was there already, but for its line in done.jsonl, which it has now."""
        try:
            entry = _entry(self._note(key).read_bytes())
        except FileNotFoundError:
            entry = self._done.held.get(key)  # that it is done, and here, is not enough where it belongs into a store
        path = self.root / str(entry and entry.get("output"))
        if entry is None or not path.is_file() or file_digest(path) != entry.get("sha256"):
            return False
        for folder in self.unfinished.glob(f"{key[:32]}-*"):
            unfinished.remove(folder)
        self._finish(key, entry)
        return True

    def target(self, job: Job) -> Path:
        """Where the file of a job belongs. Raises InputError when another file has that name."""
        path = self.root / job.output
        taken = path if os.path.lexists(path) else f"{self._store.url}/{job.output}" if self._store and self._store.has(job.output) else None
        if taken:
            raise InputError(f"{taken} is there already, and not of this job: its image, voice, settings or models were others. Remove or rename it.")
        return path

    def announce(self, key: str, job: Job, whole: Path, **facts: Any) -> None:
        """The file ``whole`` is about to get the name of the result; facts: for its line."""
        entry = {"job": key, "output": job.output, "image": str(job.image), "audio": str(job.audio), **facts, "sha256": file_digest(whole)}
        write_whole(self._note(key), json.dumps(entry))

    def done(self, key: str, **facts: Any) -> None:
        """The file has its name."""
        entry = _entry(self._note(key).read_bytes())
        assert entry is not None, "it was announced"
        self._finish(key, {**entry, **facts})

    def line(self, key: str) -> dict[str, Any]:
        """What done.jsonl says of a job that is done."""
        return self._done.refresh()[key]

    def take(self, key: str, job: Job, video: bytes, facts: Mapping[str, Any]) -> None:
        """Keep the video of a job, which is claimed, that came from elsewhere, with its line. Raises InputError, see target."""
        whole = self.inside / "arrived" / f"{key[:32]}{job.format.suffix}"
        with storing(whole):
            whole.parent.mkdir(exist_ok=True)
        with whole_file(whole) as partial:
            partial.write_bytes(video)
        target = self.target(job)
        self.announce(key, job, whole, **{name: facts[name] for name in ("frames", "clips", "made")})
        move_new(whole, target)
        self.done(key, seconds=facts["seconds"])

    def failed(self, key: str, output: str, reason: str, **facts: Any) -> None:
        with self._writing():
            self._failed.add({"job": key, "output": output, "reason": reason, "time": time.time(), **facts})

    def tidy(self, lines_of: str = "") -> None:
        """Take out of failed.jsonl what has been done since, lines of a job but the last, and what failed in an earlier run with a name that
        begins with ``lines_of``: lines of a manifest that were no jobs, and have been mended."""
        with self._writing():
            done, failed = self._done.refresh(), self._failed.refresh()
            left = [
                entry
                for key, entry in failed.items()
                if key not in done and not (lines_of and key.startswith(lines_of) and entry.get("time", 0) < self.since)
            ]
            write_whole(self._failed.path, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in left))

    def _finish(self, key: str, entry: Mapping[str, Any]) -> None:
        here = self.root / str(entry["output"])
        if self._store:
            self._store.put(here, entry["output"])
        with self._writing():
            self._done.add(entry)
        if self._store:
            here.unlink()
        with suppress(OSError):
            self._note(key).unlink()

    def _note(self, key: str) -> Path:
        return self.inside / "notes" / f"{key[:32]}.json"

    def _writing(self):
        return locked(self.inside / "lines.lock", f"{self.inside} stays locked: another process has stopped while it wrote there.", _PATIENCE)


class _Busy:
    """Its name is what a claim says that another process holds."""


Say = Callable[[Mapping[str, Any]], None]
"""Takes what happened, in values that JSON can hold: `event` and what belongs to it."""
