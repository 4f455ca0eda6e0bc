"""The table of models in the README, from the catalogue."""

import os
import re
from collections.abc import Collection
from pathlib import PurePosixPath

from memo_modules.store.catalogue import CATALOGUE, Model
from memo_modules.store.fetching import megabytes


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
        megabytes(sum(sizes)) if all(sizes) else model.about,
    )
    return f"| {' | '.join(cells)} |"


def size(without: Collection[str] = ()) -> int:
    """Bytes to download, but for the models of some roles."""
    return sum(_bytes(model) for role, model in CATALOGUE.items() if role not in without)


def download() -> str:
    """What all of it takes to download, in words."""
    return megabytes(size())


def _bytes(model: Model) -> int:
    """Of the files that are downloaded; where the catalogue has no sizes, as its words give them."""
    sizes = [file.size for file in model.needed]
    if all(sizes):
        return sum(sizes)
    number, unit = re.match(r"([\d.]+) (MB|GB)", model.about).groups()
    return round(float(number) * {"MB": 1e6, "GB": 1e9}[unit])
