"""What a long video has come to: a folder from which it continues after a crash, a power cut or a cancel.

It holds one entry per clip, the clip's video next to it, and what the video is made of. An entry is written when its video
is on the disk, and both wholly or not at all: whatever stops the work, nothing is lost but the clip under way.
"""

import glob
import json
import logging
import math
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import InputError, StorageError
from ..files.documents import parse_json
from ..files.regular_files import NotRegularError, is_regular, open_regular, read_regular
from ..files.whole_files import remove_partial, storing, whole_file, write_whole
from ..sampler.sampling import REPLAYED_CLIPS
from ..types import VideoState
from ..words import first_line
from .unfinished import INPUTS, clean, held, remove

CLOSE = 0.01
"""Relative distance up to which computed inputs are the same: a GPU rounds differently from one run to the next."""

LATER = ("audio.heard", "audio.blocks", "state.blocks", "state.generator")
"""Inputs that journals of former versions do not have: there they are unknown, and what else is known decides."""

_DAMAGE = (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError)
"""What reading a file raises that is not what it should be; the last of them for JSON that is too deep."""

_NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, NotRegularError)

_NAMED, _MOST_NAMED = "named.json", 2**16
"""The file that says which name the finished video was about to get, and its bytes at most."""

_KERNELS = "kernels.json"
"""The file that says which kernels the video was begun with."""

_MOST_READ = 2**30
"""Bytes of an entry: hundreds of times those of the largest clip."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a video is made of, by the names that its user knows, or such a name, a point and what of it.

    exact: text, or digests, that are the same or not. computed: float32 tensors that other runs compute with other rounding;
    of those with rows each row has to be the same but for that.
    """

    exact: Mapping[str, str]
    computed: Mapping[str, Tensor]

    def changes(self, before: "Inputs") -> list[str]:
        """Names of what was otherwise before."""
        known, computed = before.exact.keys() | set(self.exact).difference(LATER), before.computed.keys() | set(self.computed).difference(LATER)
        changed = {name for name, value in self.exact.items() if name in known and before.exact.get(name) != value}
        changed |= before.exact.keys() - self.exact.keys() - set(LATER)
        changed |= {name for name, value in self.computed.items() if name in computed and not _is_close(before.computed.get(name), value)}
        return sorted({name.partition(".")[0] for name in changed})


def _is_close(old: Tensor | None, new: Tensor) -> bool:
    if old is None or old.shape != new.shape:
        return False
    return bool(((old - new).norm(dim=-1) <= CLOSE * new.norm(dim=-1)).all())


class Journal:
    """The folder of one video, held by one process at a time; made by ``opened``.

    segments: of each clip that is done its video, None for one that is not shown. changed: names of inputs that differ from
    those of the video of the same name that was worked on last and is not finished; empty when there is none, or this one
    is it.
    """

    def __init__(self, folder: Path, changed: list[str]):
        self.folder, self.changed = folder, changed
        self.segments: list[Path | None] = []
        self._whole_crc = 0
        self._last: VideoState | None = None
        self._past_latents = deque(maxlen=REPLAYED_CLIPS)
        _clear(folder)
        while (entry := _read_entry(self._entry(), self._last)) is not None:
            self._keep(*entry)
        kept = {path for number, segment in enumerate(self.segments) for path in (self._entry(number), segment)}
        for path in folder.glob("clip-*"):
            if path not in kept:
                path.unlink()

    def state(self, start: VideoState | None) -> VideoState | None:
        """To continue after the last clip of a video that itself continued ``start``, if not None."""
        if self._last is None:
            return start
        past_latents = (*(start.past_latents if start else ()), *self._past_latents)
        return replace(self._last, past_latents=past_latents[-REPLAYED_CLIPS:])

    def made(self) -> Iterator[VideoState]:
        """The state after each clip that is done, with what was sampled for it."""
        before = None
        for number in range(len(self.segments)):
            entry = _read_entry(self._entry(number), before)
            if entry is None:
                raise InputError(f"{self._entry(number)} was changed by another program. Run again.")
            before, _ = entry
            yield before

    def segment(self, suffix: str) -> Path:
        """Where the video of the next clip goes."""
        return self._entry().with_suffix(suffix)

    def append(self, state: VideoState, segment: Path | None) -> None:
        """The next clip is done: ``state`` is that after it, ``segment`` on the disk."""
        with storing(self.folder):
            _write_entry(self._entry(), state, segment)
        self._keep(state, segment)

    def finishing(self, whole: Path, check_interrupt: Callable[[], None]) -> None:
        """The video is whole, and gets its name next. Raises StorageError when the disk does not give it."""
        with storing(whole):
            self._whole_crc = _crc_of_file(whole, check_interrupt)

    def claiming(self, path: Path, joined: str) -> None:
        """The video may have the name ``path`` from now on: should the process end before it says so, ``finished`` finds it there.
        joined: what the clips were joined with."""
        write_whole(self.folder / _NAMED, json.dumps({"path": str(path.absolute()), "crc": self._whole_crc, "joined": joined}))

    def finished(self, joined: str, check_interrupt: Callable[[], None]) -> Path | None:
        """The video, where it was finished with ``joined``, and the journal kept or the process ended before it was removed."""
        try:
            named = parse_json(read_regular(self.folder / _NAMED, _MOST_NAMED))
            path, same = Path(named["path"]), named.get("joined", joined) == joined  # former versions do not say
            return path if same and is_regular(path) and _crc_of_file(path, check_interrupt) == named["crc"] else None
        except _DAMAGE:  # most often there is none
            return None

    def kernels(self, chosen: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        """What the video was begun with, see acceleration.choices; ``chosen``, which is kept, where it is yet to be begun or does not say."""
        path = self.folder / _KERNELS
        try:
            before = parse_json(read_regular(path, _MOST_NAMED)) if self.segments else None
        except _DAMAGE:
            before = None
        if isinstance(before, dict) and all(_is_text(each) for each in before.values()):
            return before
        if chosen:
            with storing(path):
                write_whole(path, json.dumps(chosen))
        return chosen

    def remove(self) -> None:
        """The video is finished."""
        remove(self.folder)

    def _keep(self, state: VideoState, segment: Path | None) -> None:
        self.segments.append(segment)
        self._past_latents.append(state.past_latents[-1])
        self._last = state

    def _entry(self, number: int | None = None) -> Path:
        return self.folder / f"clip-{len(self.segments) if number is None else number:05}.safetensors"


def _is_text(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(channels, str) and channels.isdigit() and isinstance(value[channels], str) for channels in value
    )


@contextmanager
def opened(root: Path, name: str, inputs: Inputs, max_age: float = math.inf, max_bytes: float = math.inf) -> Iterator[Journal]:
    """The Journal in ``root`` of the video ``name`` made of ``inputs``: the one that was begun, or a new one.

    What is damaged in it is dropped, and all after it; of the other journals those that ``clean`` removes are. Raises
    InputError when another process works on it, or when something that is none of its files is in the way, and StorageError
    when nothing can be written there.
    """
    with storing(root):
        folder, changed = _find(root, name, inputs)
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        journal = None
        try:
            with storing(folder):
                remove_partial(folder, below=False)
                if not (folder / INPUTS).exists():
                    _write_inputs(folder / INPUTS, inputs)
                clean(root, max_age, max_bytes)
                journal = Journal(folder, changed)
            yield journal
        except BaseException:
            if journal and not journal.segments:  # refused, or stopped within the first clip: there is nothing to continue
                journal.remove()
            raise
        finally:
            if not os.path.lexists(folder / INPUTS):  # removed, but for the lock
                remove(folder)


def _find(root: Path, name: str, inputs: Inputs) -> tuple[Path, list[str]]:
    """The folder for a video, and what has changed since the last one of its name when that is another."""
    others = {}
    key = zlib.crc32(json.dumps(dict(inputs.exact), sort_keys=True).encode())
    ours = root / f"{name}-{key:08x}"
    for folder in root.glob(f"{glob.escape(name)}-*"):
        before = _read_inputs(folder / INPUTS, inputs, needed=folder == ours)
        if before is not None:
            others[folder] = inputs.changes(before)
            if not others[folder]:
                return folder, []
    folder = ours
    while os.path.lexists(folder):  # the same but for what was computed, or damaged
        key = (key + 1) % 2**32
        folder = root / f"{name}-{key:08x}"
    latest = max(others, key=lambda folder: _modified(folder / INPUTS), default=None)
    return folder, others.get(latest, [])


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # removed meanwhile
        return -math.inf


def _clear(folder: Path) -> None:
    """Remove what has the name of a file of ours and is none: pipes, devices, links to such, empty folders. Raises InputError
    for a folder with something in it."""
    for path in folder.iterdir():
        if not path.name.startswith(("clip-", "video.")) or is_regular(path):
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            continue
        try:
            path.rmdir()
        except OSError:
            raise InputError(f"{path} is a folder where a file of an unfinished video belongs. Remove it, and run again.") from None


def _write_inputs(path: Path, inputs: Inputs) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(save({name: value.contiguous() for name, value in inputs.computed.items()}, dict(inputs.exact)))


def _read_inputs(path: Path, expected: Inputs, needed: bool) -> Inputs | None:
    """What is in the file; tensors of another kind or shape than the ``expected`` are empty. None when it cannot be read.

    needed: it is most likely that of the video to be made. Raises StorageError when the disk does not give that.
    """
    try:
        held, metadata = _read_tensors(path)
    except _DAMAGE as error:
        if needed:
            _raise_if_not_given(error, path)
        if os.path.lexists(path):
            _log.warning("%s is damaged (%s): its video is not continued.", path, first_line(error))
        return None
    like = {name: name in held and (held[name].dtype, held[name].shape) == (tensor.dtype, tensor.shape) for name, tensor in expected.computed.items()}
    return Inputs(metadata, {name: held[name] if like[name] else torch.empty(0) for name in expected.computed if name in held})


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, read at once: one that is mapped could not be removed under Windows, and would
    end the process where the disk fails later. Raises one of _DAMAGE."""
    with open_regular(path) as file:
        content = file.read(_MOST_READ)
    tensors = load(content)  # which checks the header
    return tensors, json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}


def _raise_if_not_given(error: Exception, path: Path) -> None:
    """Raises StorageError for an error of the disk, which says nothing of what is in the file."""
    if isinstance(error, OSError) and not isinstance(error, _NOT_THERE):
        raise StorageError(
            f"{error.filename or path} cannot be read ({error.strerror}). Nothing is removed: run again when it can. Where it never can, "
            "remove it: it is made again, and what comes after it."
        ) from error


def _write_entry(path: Path, state: VideoState, segment: Path | None) -> None:
    tensors = {"latents": state.latents, "past_latents": state.past_latents[-1], "generator": state.generator}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    facts = {"last_frames": state.last_frames, "clips": state.clips, "model": state.model}
    if segment is not None:
        facts |= {"segment": segment.name, "segment_crc": _crc_of_file(segment)}
    text = json.dumps(facts)
    with whole_file(path) as partial:
        partial.write_bytes(save(tensors, {"facts": text, "crc": str(_crc(text.encode(), *map(_bytes, tensors.values())))}))


def _read_entry(path: Path, before: VideoState | None) -> tuple[VideoState, Path | None] | None:
    """State after a clip, with the past latents of this clip alone, and its video; None when anything is missing, damaged or
    does not follow the state ``before``, after the clip before, if any.

    Raises StorageError when the disk does not give it: that says nothing of what is on it.
    """
    if not os.path.lexists(path):
        return None
    try:
        held, metadata = _read_tensors(path)
        latents, past_latents, generator = tensors = [held[name] for name in ("latents", "past_latents", "generator")]
        facts = json.loads(metadata["facts"])
        segment = _segment(path, facts["segment"]) if "segment" in facts else None
        if _crc(metadata["facts"].encode(), *map(_bytes, tensors)) != int(metadata["crc"]):
            raise ValueError("its checksum does not match")
        if segment is not None and _crc_of_file(segment) != facts["segment_crc"]:
            raise ValueError("the checksum of its video does not match")
        state = VideoState((past_latents,), latents, facts["last_frames"], facts["clips"], generator, facts["model"])
        _check_follows(state, before)
        return state, segment
    except _DAMAGE as error:
        _raise_if_not_given(error, path)
        _log.warning("%s is damaged (%s): this clip and those after it will be made again.", path, first_line(error))
        return None


def _segment(entry: Path, name: object) -> Path:
    """The video of a clip, which lies next to its ``entry`` and is named like it."""
    if type(name) is not str or Path(name).stem != entry.stem or Path(name).name != name or name == entry.name:
        raise ValueError("it does not name the video of its clip")
    return entry.with_name(name)


def _check_follows(state: VideoState, before: VideoState | None) -> None:
    """Raises ValueError for what nobody can have written who continued ``before``, whatever its checksum says."""
    latents, [past_latents] = state.latents, state.past_latents
    counts = (state.clips, state.last_frames)
    if not all(type(count) is int for count in counts) or state.clips < 1 or type(state.model) is not str:
        raise ValueError("its counts are none")
    if latents.ndim != 4 or past_latents.ndim != 4 or latents.shape[1:] != past_latents.shape[1:] or not len(past_latents):
        raise ValueError("its latents have no shape of a clip")
    if not 0 <= state.last_frames <= len(latents):
        raise ValueError("it has more frames than its clip")
    for tensor in (latents, past_latents):
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise ValueError("its latents are not finite numbers")
    torch.Generator().set_state(state.generator)  # raises RuntimeError and TypeError for what is none
    if before is not None and (state.clips, latents.shape, state.model) != (before.clips + 1, before.latents.shape, before.model):
        raise ValueError("it does not follow the clip before it")


def _crc_of_file(path: Path, check_interrupt: Callable[[], None] = lambda: None) -> int:
    crc = 0
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            check_interrupt()
            crc = zlib.crc32(block, crc)
    return crc


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _crc(*parts: bytes | memoryview) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc
