"""Golden cases: tensors of the reference implementation on tiny random nets (tests/golden/README.md)."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

NET_LIMIT = 5e-5
"""Largest difference of a net's output, relative to the tensor's largest value."""


@dataclass(frozen=True)
class Case:
    """One JSON file with its tensors."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def folder(self) -> Path:
        return self.path.parent

    @cached_property
    def meta(self) -> dict:
        return json.loads(self.path.read_text(encoding="utf-8"))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    def options(self, name: str = "model") -> dict:
        return self.meta["models"][name]["constructor_kwargs"]

    def weights(self, name: str = "model") -> dict[str, Tensor]:
        """Float32 weights of one net: a file next to the case or `w.*` inside it."""
        file = self.meta.get("models", {}).get(name, {}).get("weights_file")
        if file:
            weights = load_file(self.folder / file)
        else:
            weights = {key.removeprefix("w."): value for key, value in self.tensors.items() if key.startswith("w.")}
        return {key: value.float() for key, value in weights.items()}


def assert_close(case: Case, name: str, found: Tensor, limit: float = NET_LIMIT) -> None:
    expected = case.tensors[name].float()
    assert found.shape == expected.shape, f"{case.name} {name}: shape {list(found.shape)}, expected {list(expected.shape)}"
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error <= limit, f"{case.name} {name}: {error:.2e} of the tensor's max, limit {limit:.0e}"
