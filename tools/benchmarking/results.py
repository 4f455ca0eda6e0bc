"""Results in benchmarks/*.json, with the versions and the date of each."""

import json
import platform
import re
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def stamp() -> dict:
    """Versions and date."""
    pack = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "cuda": torch.version.cuda,
        "pack": pack[1],
    }
    return {"versions": versions, "date": datetime.now(timezone.utc).date().isoformat()}


def append(path: Path, kind: str, entry: dict) -> None:
    """Add ``entry`` to the list ``kind`` of the JSON file, which need not be there yet."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    document.setdefault(kind, []).append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
