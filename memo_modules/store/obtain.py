"""A model by role and name: the one that is there, or the published one, fetched."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import CheckpointError
from ..host import SILENT, Host
from ..weights.checkpoints import BFLOAT16_WEIGHTS, read_weights, weights_file
from ..weights.checks import file_fault
from ..words import file_size, quoted
from .catalogue import CATALOGUE, Model, ModelFile
from .fetching import by_hand, fetch
from .finding import Listing, find
from .judging import forget

Roots = Callable[[str], list[Path]]
"""Model folders of a kind (`memo`, `vae`, ..), the one where new files go first."""


def listing(role: str, roots: Roots) -> Listing:
    """What there is of a role, in the folders of its kinds."""
    return find(role, folders(CATALOGUE[role], roots))


def folders(model: Model, roots: Roots) -> list[Path]:
    """All that may hold a model."""
    return [root for kind in (model.kind, *model.also_in) for root in roots(kind)]


_LONGEST_NAME, _NAME = 200, re.compile(r"\w[\w.+() -]*(/\w[\w.+() -]*)*(?<! )")


def offered(role: str, roots: Roots) -> dict[str, str]:
    """What a loader offers: the names of what there is, and the published model with how much would be fetched for it, "" for nothing."""
    model, found = CATALOGUE[role], listing(role, roots).found
    if model.name in found:
        return dict.fromkeys(found, "")
    files = missing(model, roots)[1]
    return dict.fromkeys(found, "") | {model.name: file_size(_size(model, files)) if files else ""}


def stand_in(role: str, name: str, roots: Roots) -> str | None:
    """The one other model of a role, where there is none of that name: workflows name the published ones, and who has only a finetuned
    or a small one means that. What no file of a model is called gets none."""
    there = listing(role, roots)
    if name in there.found or name in there.refused or len(there.found) != 1 or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        return None
    return next(iter(there.found))


def refusal(role: str, name: str, roots: Roots, exact: bool = False) -> str | None:
    """Why a loader does not offer ``name``; None when it does. exact: a stand-in will not do."""
    there = listing(role, roots)
    if name in there.found or name == CATALOGUE[role].name or (not exact and stand_in(role, name, roots)):
        return None
    known = ", ".join(there.found) or "none"
    return (
        there.refused.get(name)
        or f"{quoted(name)} is not among the models that were found ({known}). The README's model table says where it belongs."
    )


SWITCH, SCRIPT = "switch on download", "run scripts/download.py"
"""What fetches a model: in a node, and everywhere else."""


def obtain(role: str, name: str, roots: Roots, download: bool = False, host: Host = SILENT, remedy: str = SWITCH, exact: bool = False) -> Path:
    """What the loader of ``role`` takes for ``name``, or its stand-in, of which ``host`` is told. download: fetch what is missing of the
    published model instead. remedy: what would fetch it, for the error. exact: take no stand-in.

    Raises CheckpointError when it is not there or cannot be loaded, and DownloadError when it cannot be fetched.
    """
    there = listing(role, roots)
    if name in there.found:
        return there.found[name]
    model = CATALOGUE[role]
    if not exact and not (download and name == model.name) and (other := stand_in(role, name, roots)):
        host.say(f"{model.title}: {quoted(name)} is not there, {quoted(other)} is used instead.")
        return there.found[other]
    if name != model.name:
        raise CheckpointError(refusal(role, name, roots, exact))
    if not download:
        check_there({role: name}, roots, remedy)
    root, files = missing(model, roots)
    if files:
        fetch(files, root, host)
        forget()
        there = listing(role, roots)
        if name in there.found:
            return there.found[name]
    raise CheckpointError(there.refused.get(name) or f"{quoted(name)} is where it belongs, but was not found inside {root}.")


def check_there(names: Mapping[str, str], roots: Roots, remedy: str = SWITCH) -> None:
    """Raises CheckpointError that lists all that is missing of the published ones among several models, role to name, its size, and what
    would fetch it."""
    lacking = []
    for role, name in names.items():
        model = CATALOGUE[role]
        if name == model.name and name not in listing(role, roots).found and not stand_in(role, name, roots):
            root, files = missing(model, roots)
            if files:
                lacking.append((model, root, files))
    if not lacking:
        return
    sizes = [_size(model, files) for model, _, files in lacking]
    if len(lacking) == 1:
        [(model, root, files)] = lacking
        raise CheckpointError(f"{model.title} is not there: {remedy} ({file_size(sizes[0])}), or {by_hand(files, root)}")
    titles = ", ".join(f"{model.title} ({file_size(size)})" for (model, _, _), size in zip(lacking, sizes, strict=True))
    hands = "; ".join(by_hand(files, root) for _, root, files in lacking)
    raise CheckpointError(f"{len(lacking)} models are not there: {titles}. {remedy[0].upper()}{remedy[1:]} ({file_size(sum(sizes))}), or {hands}")


def find_model(role: str, models: Path, name: str | None = None) -> Path:
    """The model of a role in a `models` folder, the one of that name where there are several. Raises CheckpointError that
    lists what is missing."""

    def roots(kind: str) -> list[Path]:
        return [models / kind]

    found = listing(role, roots).found
    return (
        (found.get(name) if name else None)
        or next(iter(found.values()), None)
        or obtain(role, CATALOGUE[role].name, roots, remedy=f"{SCRIPT} --models {models}")
    )


def missing(model: Model, roots: Roots) -> tuple[Path, list[ModelFile]]:
    """Where the published model belongs, which is where most of it lies, and its files that are not there or not whole."""
    lacking = {root: [file for file in model.needed if not _is_there(root / file.target, file)] for root in roots(model.kind)}
    return min(lacking.items(), key=lambda item: len(item[1]))


def _size(model: Model, files: list[ModelFile]) -> int:
    sizes = [file.size for file in files if file.size]
    return sum(sizes) if len(sizes) == len(files) else model.size


def _is_there(path: Path, file: ModelFile) -> bool:
    if not path.exists() and path.name != BFLOAT16_WEIGHTS and (copy := weights_file(path.parent)).name == BFLOAT16_WEIGHTS and copy.exists():
        return path.suffix == ".safetensors"  # whose float32 original was deleted
    if file_fault(path) or (file.size and path.stat().st_size != file.size):
        return False
    if path.suffix == ".safetensors":
        try:
            read_weights(path, header_only=True)
        except CheckpointError:
            return False
    return True
