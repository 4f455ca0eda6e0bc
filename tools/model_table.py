"""Rewrite the model table in README.md from the catalogue: python tools/model_table.py"""

import os
from pathlib import Path, PurePosixPath

from memo_modules.store.catalogue import CATALOGUE, Model
from memo_modules.store.fetching import megabytes

ROOT = Path(__file__).resolve().parents[1]

README = ROOT / "README.md"
START, END = "<!-- models -->", "<!-- end of models -->"


def table() -> str:
    """The table in markdown, a row per model."""
    rows = ["| model | from | into | size | licence | without it |", "|---|---|---|---|---|---|", *map(_row, CATALOGUE.values())]
    return "\n".join(rows)


def _row(model: Model) -> str:
    targets = [PurePosixPath("models", model.kind, file.target) for file in model.needed]
    folder = PurePosixPath(os.path.commonpath([target.parent for target in targets]))
    inside = [target.relative_to(folder) for target in targets]
    names = dict.fromkeys(f"`{path.parts[0]}/`" if len(path.parts) > 1 else f"`{path}`" for path in inside)
    sizes = [file.size for file in model.needed]
    cells = (
        f"{model.title}: {', '.join(names)}",
        f"[{model.repository}](https://huggingface.co/{model.repository})",
        f"`{folder}/`",
        megabytes(sum(sizes)) if all(sizes) else model.about,
        model.licence,
        model.without or "nothing works",
    )
    return f"| {' | '.join(cells)} |"


def with_table(readme: str) -> str:
    """The README's text with the table of now in it."""
    before, rest = readme.split(START)
    return f"{before}{START}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
