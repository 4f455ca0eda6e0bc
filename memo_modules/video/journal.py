"""What a long video has come to: a folder from which it goes on after a crash, a power cut or a cancel.

It holds one entry per clip, the clip's video beside it, and what the video is made of. An entry is written when its video
is on the disk, and both wholly or not at all: whatever stops the work, nothing is lost but the clip under way.
"""

import json
import logging
import math
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..sampling import REPLAYED_CLIPS
from ..types import VideoState
from ..whole_files import remove_partial, whole_file

INPUTS, LOCK = "inputs.safetensors", "lock"

CLOSE = 0.01
"""Relative distance up to which computed inputs are the same: a GPU rounds differently from one run to the next."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a video is made of, by the names that its user knows.

    exact: text, or digests, that are the same or not. computed: float tensors that other runs compute with other rounding.
    """

    exact: Mapping[str, str]
    computed: Mapping[str, Tensor]

    def changes(self, before: "Inputs") -> list[str]:
        """Names of what was otherwise before."""
        changed = [name for name, value in self.exact.items() if before.exact.get(name) != value]
        for name, value in self.computed.items():
            old = before.computed.get(name)
            if old is None or old.shape != value.shape or not (old - value).norm() <= CLOSE * value.norm():
                changed.append(name)
        return sorted(set(changed))


class Journal:
    """The folder of one video, held by one process at a time; made by ``opened``.

    segments: of each clip that is done its video, None for one that is not shown. changed: names of inputs that differ from
    those of the video of the same name that was worked on last and is not finished; empty when there is none, or this one
    is it.
    """

    def __init__(self, folder: Path, changed: list[str]):
        self.folder, self.changed = folder, changed
        self.segments: list[Path | None] = []
        self._last: VideoState | None = None
        self._past_latents = deque(maxlen=REPLAYED_CLIPS)
        while (entry := _read_entry(self._entry())) is not None:
            self._keep(*entry)
        kept = {path for number, segment in enumerate(self.segments) for path in (self._entry(number), segment)}
        for path in folder.glob("clip-*"):
            if path not in kept:
                path.unlink()

    def state(self, start: VideoState | None) -> VideoState | None:
        """To go on behind the last clip of a video that itself went on behind ``start``, if not None."""
        if self._last is None:
            return start
        past_latents = (*(start.past_latents if start else ()), *self._past_latents)
        return replace(self._last, past_latents=past_latents[-REPLAYED_CLIPS:])

    def segment(self, suffix: str) -> Path:
        """Where the video of the next clip goes."""
        return self._entry().with_suffix(suffix)

    def append(self, state: VideoState, segment: Path | None) -> None:
        """The next clip is done: ``state`` is behind it, ``segment`` on the disk."""
        _write_entry(self._entry(), state, segment)
        self._keep(state, segment)

    def remove(self) -> None:
        """The video is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, state: VideoState, segment: Path | None) -> None:
        self.segments.append(segment)
        self._past_latents.append(state.past_latents[-1])
        self._last = state

    def _entry(self, number: int | None = None) -> Path:
        return self.folder / f"clip-{len(self.segments) if number is None else number:05}.safetensors"


@contextmanager
def opened(root: Path, name: str, inputs: Inputs, max_age: float = math.inf, max_bytes: float = math.inf) -> Iterator[Journal]:
    """The Journal in ``root`` of the video ``name`` made of ``inputs``: the one that was begun, or a new one.

    What is damaged in it is dropped, and all behind it; of the other journals those that ``clean`` removes are. Raises
    InputError when another process works on it.
    """
    from filelock import FileLock, Timeout

    folder, changed = _find(root, name, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f"{folder}: another ComfyUI is making this video. Wait for it, or choose another file name.") from None
    try:
        remove_partial(folder)
        if not (folder / INPUTS).exists():
            _write_inputs(folder / INPUTS, inputs)
        clean(root, max_age, max_bytes)
        yield Journal(folder, changed)
    finally:
        lock.release()
        if not (folder / INPUTS).exists():  # removed, but for the lock
            shutil.rmtree(folder, ignore_errors=True)


def clean(root: Path, max_age: float, max_bytes: float) -> None:
    """Remove journals untouched for ``max_age`` seconds, and the oldest ones while all take more than ``max_bytes``; none
    that is open, for which none of the others has to make room."""
    from filelock import FileLock, Timeout

    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        if (folder / INPUTS).is_file() and not _is_open(folder):
            files = [path.stat() for path in folder.iterdir() if path.is_file()]
            found.append((max(file.st_mtime for file in files), sum(file.st_size for file in files), folder))
    total = sum(size for _, size, _ in found)
    for touched, size, folder in sorted(found):
        if time.time() - touched <= max_age and total <= max_bytes:
            break
        with suppress(Timeout), FileLock(folder / LOCK, blocking=False):
            _log.info("Removing the unfinished video %s (%.1f GB), last worked on %s.", folder, size / 1e9, time.ctime(touched))
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _is_open(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True


def _find(root: Path, name: str, inputs: Inputs) -> tuple[Path, list[str]]:
    """The folder for a video, and what has changed since the last one of its name when that is another."""
    others = {}
    for folder in root.glob(f"{name}-*"):
        before = _read_inputs(folder / INPUTS)
        if before is not None:
            others[folder] = inputs.changes(before)
            if not others[folder]:
                return folder, []
    key = zlib.crc32(json.dumps(dict(inputs.exact), sort_keys=True).encode())
    folder = root / f"{name}-{key:08x}"
    while folder.exists():  # the same but for what was computed, or damaged
        key = (key + 1) % 2**32
        folder = root / f"{name}-{key:08x}"
    latest = max(others, key=lambda folder: (folder / INPUTS).stat().st_mtime, default=None)
    return folder, others.get(latest, [])


def _write_inputs(path: Path, inputs: Inputs) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(save({name: value.contiguous() for name, value in inputs.computed.items()}, dict(inputs.exact)))


def _read_inputs(path: Path) -> Inputs | None:
    try:
        with safe_open(path, framework="pt") as file:
            return Inputs(file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()})
    except (OSError, SafetensorError):
        return None


def _write_entry(path: Path, state: VideoState, segment: Path | None) -> None:
    tensors = {"latents": state.latents, "past_latents": state.past_latents[-1], "generator": state.generator}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    facts = {"last_frames": state.last_frames, "clips": state.clips, "model": state.model}
    if segment is not None:
        facts |= {"segment": segment.name, "segment_crc": _crc(segment.read_bytes())}
    text = json.dumps(facts)
    with whole_file(path) as partial:
        partial.write_bytes(save(tensors, {"facts": text, "crc": str(_crc(text.encode(), *map(_bytes, tensors.values())))}))


def _read_entry(path: Path) -> tuple[VideoState, Path | None] | None:
    """State behind a clip, with the past latents of this clip alone, and its video; None when anything is missing or damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            # copies: a file that is mapped could not be removed under Windows
            latents, past_latents, generator = tensors = [file.get_tensor(name).clone() for name in ("latents", "past_latents", "generator")]
        facts = json.loads(metadata["facts"])
        segment = path.with_name(facts["segment"]) if "segment" in facts else None
        whole = _crc(metadata["facts"].encode(), *map(_bytes, tensors)) == int(metadata["crc"])
        if whole and (segment is None or _crc(segment.read_bytes()) == facts["segment_crc"]):
            return VideoState((past_latents,), latents, facts["last_frames"], facts["clips"], generator, facts["model"]), segment
        reason = "its checksum or that of its video does not match"
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    _log.warning("%s is damaged (%s): this clip and those after it will be made again.", path, reason)
    return None


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _crc(*parts: bytes) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc
