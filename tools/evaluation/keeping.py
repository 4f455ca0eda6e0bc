"""Readings on disk, so that an evaluation that was stopped continues with those that are missing."""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from memo_modules.files.whole_files import whole_file
from memo_modules.types import SamplerSettings
from tools.evaluation.readings import Reading
from tools.evaluation.variants import VARIANTS, Case

_PLAIN = ("case", "sharpness", "seconds", "digest")
"""Fields of a Reading that are no arrays."""


class Kept:
    """The readings of models and a reader that ``digests`` tell from others, in ``folder``; None keeps nothing."""

    def __init__(self, folder: Path | None = None, digests: tuple[str | None, ...] = ()):
        self.folder, self.digests = folder, digests

    def path(self, key: str, case: Case, settings: SamplerSettings, size: int) -> Path | None:
        """The file of a reading; None where nothing is kept."""
        variant = VARIANTS[key]
        what = [self.digests, key, variant.memory, variant.mood, asdict(settings), asdict(case), size]
        name = f"{key}-{case.identity}-{case.mood}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.npz"
        return self.folder and self.folder / name

    @staticmethod
    def find(path: Path | None) -> Reading | None:
        if path is None or not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files if name not in _PLAIN}
            plain = json.loads(str(held["case"]))
        return Reading(**arrays, **plain | {"case": Case(**plain["case"]), "seconds": tuple(plain["seconds"])})

    @staticmethod
    def keep(path: Path | None, reading: Reading) -> None:
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {name: getattr(reading, name) for name in _PLAIN} | {"case": asdict(reading.case)}
        arrays = {field.name: getattr(reading, field.name) for field in fields(reading) if field.name not in _PLAIN}
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, case=json.dumps(plain), **arrays)
