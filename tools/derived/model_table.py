"""The table of models in the README, from the catalogue."""

import os
from collections.abc import Collection
from pathlib import PurePosixPath

from memo_modules.store.catalogue import CATALOGUE, Model
from memo_modules.words import file_size


def table() -> str:
    """The table in markdown: a row per model, and one for all of them."""
    head = ["| model, licence | from, into which folder | size |", "|---|---|---|"]
    return "\n".join([*head, *map(_row, CATALOGUE.values()), f"| **all of it** | | **{download()}** |"])


def _row(model: Model) -> str:
    targets = [PurePosixPath("models", model.kind, file.target) for file in model.needed]
    folder = PurePosixPath(os.path.commonpath([target.parent for target in targets]))
    inside = [target.relative_to(folder) for target in targets]
    names = dict.fromkeys(f"`{path.parts[0]}/`" if len(path.parts) > 1 else f"`{path}`" for path in inside)
    sizes = [file.size for file in model.needed]
    cells = (
        f"**{model.title}**<br>{model.licence}" + (f"<br>optional: {model.without}" if model.without else ""),
        f"[{model.repository}](https://huggingface.co/{model.repository})<br>`{folder}/`<br>{', '.join(names)}",
        file_size(sum(sizes)) if all(sizes) else model.about,
    )
    return f"| {' | '.join(cells)} |"


def size(without: Collection[str] = ()) -> int:
    """Bytes to download, but for the models of some roles."""
    return sum(model.size for role, model in CATALOGUE.items() if role not in without)


def download() -> str:
    """What all of it takes to download, in words."""
    return file_size(size())
