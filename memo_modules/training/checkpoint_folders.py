"""The folder of a training: `checkpoint-N`, complete or absent, with the nets in the published layout; and `checkpoint-best`, nets alone,
with how they did in validation.

Only folders of exactly these names with a trainer's state, or that, in them are ever read or deleted.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from shutil import disk_usage

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError, InputError, StorageError
from ..files.locks import locked
from ..files.whole_files import flush, flush_names, storing
from ..sampler.sampling import MemoNets
from ..weights.checkpoints import NETS, net_source
from ..weights.tensor_saving import save_tensors

STATE, TENSORS = "trainer.json", "trainer.safetensors"
BEST, VALIDATED = "checkpoint-best", "validation.json"

_NAME = re.compile(r"checkpoint-(\d+)")
_REST = re.compile(r"(checkpoint-(?:\d+|best))\.(partial|former)")


def alone(output_dir: Path) -> AbstractContextManager[None]:
    """Within, no other training writes to the folder. Raises InputError when one is at work there, and StorageError when nothing can
    be written there."""
    with storing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
    busy = f"output_dir: another training is at work in {output_dir}. Wait for it, stop it, or name another folder."
    return locked(output_dir / "training.lock", busy, stays=False)


def checkpoints(output_dir: Path) -> dict[int, Path]:
    """From step to folder: the checkpoints from which training can resume, ascending."""
    found = {}
    for folder in output_dir.iterdir() if output_dir.is_dir() else ():
        match = _NAME.fullmatch(folder.name)
        if match and (folder / STATE).is_file():
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


def resume_from(output_dir: Path, resume: str | None) -> Path | None:
    """The checkpoint that a training starts from: "latest" in ``output_dir`` if there is one, another by its path, or none.

    Raises InputError when there is none at the path, and for a new training where another one has left checkpoints.
    """
    _remove_rests(output_dir)
    there = checkpoints(output_dir)
    if resume == "latest":
        return there[max(there)] if there else None
    if resume is not None:
        if not (Path(resume) / STATE).is_file():
            raise InputError(f"resume: {resume} holds no {STATE}, expected a checkpoint-N of this trainer, or latest.")
        return Path(resume)
    if there or read_best(output_dir):
        found = f"checkpoint-{max(there)}" if there else BEST
        raise InputError(f"output_dir: {output_dir} holds {found} of an earlier training. Resume it, or name another folder.")
    return None


def check_room(output_dir: Path, size: float) -> None:
    """Raises StorageError when the disk has no room for a checkpoint of ``size`` bytes, in addition to those that are there."""
    with storing(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        if disk_usage(output_dir).free < size:
            raise no_room(output_dir, size)


def no_room(output_dir: Path, size: float) -> StorageError:
    return StorageError(
        f"{output_dir}: a checkpoint takes {size / 1e9:.2f} GB, and the disk has {disk_usage(output_dir).free / 1e9:.2f} GB left. Free some "
        "space, lower keep, or choose another output_dir. --resume latest continues from the last checkpoint."
    )


def write_checkpoint(output_dir: Path, step: int, keep: int, write: Callable[[Path], None]) -> Path:
    """Make `checkpoint-STEP` with the files that ``write`` puts into the folder it is given.

    It has its name only when it is whole; then all but the newest ``keep`` up to this step are deleted. Raises StorageError
    when the disk does not take it: it is removed, and what was there is still there.
    """
    target = output_dir / f"checkpoint-{step}"
    _write_whole(target, write)
    written = [folder for number, folder in checkpoints(output_dir).items() if number <= step]
    for folder in written[:-keep]:
        _remove(folder)
    return target


def write_best(output_dir: Path, validated: Mapping, write: Callable[[Path], None]) -> Path:
    """Make `checkpoint-best` with the files that ``write`` puts into the folder it is given, in place of the one before. validated: how
    they did. Raises StorageError, see write_checkpoint."""

    def with_mark(folder: Path) -> None:
        write(folder)
        (folder / VALIDATED).write_text(json.dumps(validated, indent=2) + "\n", encoding="utf-8")

    _write_whole(output_dir / BEST, with_mark)
    return output_dir / BEST


def read_best(output_dir: Path) -> dict | None:
    """What write_best was told of the nets that are there; None where there are none, or where it cannot be read."""
    try:
        validated = json.loads((output_dir / BEST / VALIDATED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return validated if isinstance(validated, dict) else None


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """The folder has its name only when it is whole, and on the disk."""
    output_dir = target.parent
    partial, former = (target.with_name(f"{target.name}.{ending}") for ending in ("partial", "former"))
    with storing(target, partial):
        output_dir.mkdir(parents=True, exist_ok=True)
        _remove_rests(output_dir)
        try:
            partial.mkdir()
            write(partial)
            flush(partial)  # or a power cut leaves the name with nothing in it, and what went for it is gone
            if target.exists():  # the best before, or of a training that was resumed before it
                os.replace(target, former)
            os.replace(partial, target)
        finally:
            _remove_rests(output_dir)
        flush_names(output_dir)


def _remove(folder: Path) -> None:
    """What a checkpoint is known by goes last: of one of which a part could not be removed the rest goes with the next."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != STATE:
                path.unlink()
        shutil.rmtree(folder)


def _remove_rests(output_dir: Path) -> None:
    """Remove what is not whole, and what was written again. What was to be written again, and is not, gets its name back."""
    for folder in output_dir.iterdir() if output_dir.is_dir() else ():
        rest = _REST.fullmatch(folder.name)
        if rest and (rest[2] == "partial" or folder.with_name(rest[1]).exists()):
            shutil.rmtree(folder, ignore_errors=True)
        elif rest and any((folder / mark).is_file() for mark in (STATE, VALIDATED)):
            with suppress(OSError):  # another process of this training does the same
                os.replace(folder, folder.with_name(rest[1]))


def write_nets(folder: Path, source: Path, nets: MemoNets, weights: Mapping[str, Tensor], recipe: Mapping | None = None) -> None:
    """The four nets as the published folder has them, in their dtypes, with the configs of the checkpoint ``source``.

    weights: from `net.parameter` to the tensor that replaces that parameter. recipe: of a distilled diffusion net, see DiffusionNetConfig.
    """
    for name in NETS:
        state = getattr(nets, name).state_dict()
        held = {key: weights.get(f"{name}.{key}", tensor).to(tensor.dtype) for key, tensor in state.items()}
        (folder / name).mkdir()
        save_tensors(folder / name / "diffusion_pytorch_model.safetensors", held, {"format": "pt"})
        config = net_source(source, name).read_config() | ({"recipe": dict(recipe)} if recipe and name == "diffusion_net" else {})
        (folder / name / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_state(folder: Path, values: Mapping, tensors: Mapping[str, Tensor]) -> None:
    """The trainer's state; the JSON last, by which a checkpoint is known."""
    save_tensors(folder / TENSORS, tensors)
    (folder / STATE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_state(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    """Read what write_state wrote. Raises CheckpointError when it cannot be read."""
    try:
        return json.loads((folder / STATE).read_text(encoding="utf-8")), load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the trainer's state cannot be read ({error}). Resume from another checkpoint.") from error
