"""The table of speed and memory in docs/memory.md, from the rows under benchmarks/."""

import json
from pathlib import Path

COLUMNS = ("GPU", "mode", "resolution", "s per frame", "VRAM", "date", "versions")


def measured_rows(folder: Path) -> list[dict]:
    """Rows of the published model as it is meant to run in the files of ``folder``: full-size nets, 20 steps, every exact
    acceleration on. Of rows for the same thing the last one measured."""
    rows = {}
    for path in sorted(folder.glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")).get("rows", ()):
            if row["size"] != "full" or row["steps"] != 20 or row["off"]:
                continue
            key = (row["device"], mode_label(row), row["resolution"])
            if key not in rows or rows[key]["date"] <= row["date"]:
                rows[key] = row
    return [rows[key] for key in sorted(rows)]


def mode_label(row: dict) -> str:
    parts = [row["mode"].replace("_", " ")]
    if row["dtype"] != "bfloat16":
        parts.append(row["dtype"])
    if row["compile"]:
        parts.append("compiled")
    if row["cap_gb"] is not None:
        parts.append(f"capped at {row['cap_gb']:g} GiB")
    return ", ".join(parts)


def table(rows: list[dict]) -> str:
    """Markdown; a sentence where there is no row."""
    if not rows:
        return "No GPU has been measured yet."
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in rows:
        versions = row["versions"]
        software = [f"{name} {versions[name]}" for name in ("torch", "cuda", "diffusers", "pack") if versions[name]]
        vram = "–" if row["peak_vram_gb"] is None else f"{row['peak_vram_gb']:.1f} GiB"
        cells = (row["device"], mode_label(row), row["resolution"], f"{row['s_per_frame']:.3f}", vram, row["date"], ", ".join(software))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
