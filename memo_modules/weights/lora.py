"""Low-rank factors (LoRA): what a finetuning adds to matrices, as a product of two thin ones; its file, and what it makes of weights.

A file names each changed layer as `net.module`, with the tensors `lora_up.weight` (out rank), `lora_down.weight` (rank in) and `alpha`. These are
the names that ComfyUI's loaders and others read; those of PEFT, `lora_B.weight` and `lora_A.weight`, are read here as well.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files.documents import parse_json
from ..models.config import read_recipe
from ..words import quoted
from .checkpoints import NETS, read_metadata, read_weights
from .checks import check_numbers
from .tensor_saving import save_tensors

UP, DOWN, ALPHA = "lora_up.weight", "lora_down.weight", "alpha"

RECIPE = "memo_recipe"
"""In the header of a file that was distilled, as JSON."""

_NAMES = {UP: UP, DOWN: DOWN, ALPHA: ALPHA, "lora_B.weight": UP, "lora_A.weight": DOWN}


@dataclass(frozen=True)
class Factors:
    """Of one layer: ``up`` (out rank ..) times ``down`` (rank in ..) times alpha / rank is what its weight is changed by."""

    up: Tensor
    down: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def change(self) -> Tensor:
        """float32 (out in)."""
        return self.up.flatten(1).float() @ self.down.flatten(1).float() * (self.alpha / self.rank)

    def add_to(self, weight: Tensor, strength: float, part: tuple[int, int, int] | None = None) -> Tensor:
        """``weight``, wherever it is, with the change times ``strength`` in it. part: as held_weight has it, what of it is changed."""
        rows = (weight if part is None else weight.narrow(*part)).flatten(1)
        up, down = (factor.flatten(1).to(weight) for factor in (self.up, self.down))
        rows.addmm_(up, down, alpha=strength * self.alpha / self.rank)
        return weight


@dataclass(frozen=True)
class Lora:
    """What a file holds: from net to the name of a layer in it to its factors. recipe: the SamplerSettings that it was distilled for, by
    name; empty for others."""

    path: Path
    nets: Mapping[str, Mapping[str, Factors]]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def check_fits(self, net: str, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raises CheckpointError for the first layer that a net with weights of ``shapes``, by their keys, does not have in this size."""
        for layer, factors in self.nets.get(net, {}).items():
            shape = shapes.get(f"{layer}.weight")
            if shape is None:
                name = quoted(f"{net}.{layer}")
                raise CheckpointError(f"{self.path}: {name} is no layer of this model. Use the LoRA with the model it was made for.")
            found = (factors.up.shape[0], math.prod(factors.down.shape[1:]))
            if len(shape) < 2 or found != (shape[0], math.prod(shape[1:])):
                raise CheckpointError(
                    f"{self.path}: {quoted(f'{net}.{layer}')} changes {found[0]} x {found[1]} numbers, this model has {' x '.join(map(str, shape))} "
                    "there. Use the LoRA with the model it was made for."
                )

    def merged(self, net: str, weights: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """The ``weights`` of a net with the changes, times ``strength``, in them; where there are any new tensors, in float32.

        Raises CheckpointError, see check_fits.
        """
        self.check_fits(net, {key: weight.shape for key, weight in weights.items()})
        held = dict(weights)
        for layer, factors in self.nets.get(net, {}).items():
            weight = held[f"{layer}.weight"]
            held[f"{layer}.weight"] = weight.float() + strength * factors.change().view(weight.shape)
        return held


Loras = Sequence[tuple[Lora, float]]
"""With their strengths, in the order in which they are added."""


def with_loras(loras: Loras, net: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ``weights`` of a net with all of ``loras`` in them. Raises CheckpointError, see Lora.check_fits."""
    for lora, strength in loras:
        weights = lora.merged(net, weights, strength)
    return weights


def recipe_of(loras: Loras, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe of a model with ``loras`` in it: of the last that has one, or the model's ``own``."""
    return next((lora.recipe for lora, strength in reversed(loras) if lora.recipe and strength), own)


def named_lora(text: str) -> tuple[Lora, float]:
    """The LoRA that FILE or FILE:STRENGTH names, and how strong it is, 1 by default. Raises CheckpointError, see read_lora."""
    name, _, last = text.rpartition(":")
    try:
        strength = float(last)
    except ValueError:  # nothing, or the rest of a path of Windows
        name, strength = text, 1.0
    if not (name and math.isfinite(strength)):
        raise CheckpointError(f"{quoted(text)}: expected FILE or FILE:STRENGTH, the strength a number.")
    return read_lora(Path(name)), strength


def read_lora(path: Path) -> Lora:
    """The LoRA in a safetensors file. Raises CheckpointError for a file that is none of MEMO's nets."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: expected a LoRA as a .safetensors file.")
    tensors = read_weights(path)
    check_numbers(tensors, path)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, part = next(((key[: -len(name) - 1], part) for name, part in _NAMES.items() if key.endswith(f".{name}")), ("", ""))
        net = layer.partition(".")[0]
        if net not in NETS or not layer.removeprefix(net).strip("."):
            raise CheckpointError(
                f"{path} is no LoRA of MEMO: it holds {quoted(key)}, expected diffusion_net.LAYER.{UP}, .{DOWN} and .{ALPHA}, or those of "
                f"{', '.join(net for net in NETS if net != 'diffusion_net')}. A LoRA of another model changes nothing here."
            )
        parts.setdefault(layer, {})[part] = tensor
    nets: dict[str, dict[str, Factors]] = {}
    for name, held in parts.items():
        net, _, layer = name.partition(".")
        nets.setdefault(net, {})[layer] = _factors(held, name, path)
    if not nets:
        raise CheckpointError(f"{path} holds nothing.")
    return Lora(path, nets, _recipe(path))


def _factors(held: Mapping[str, Tensor], name: str, path: Path) -> Factors:
    if UP not in held or DOWN not in held:
        raise CheckpointError(f"{path}: {quoted(name)} has no {UP if UP not in held else DOWN}. Fetch or make this file again.")
    up, down = held[UP], held[DOWN]
    if min(up.ndim, down.ndim) < 2 or up[0].numel() != down.shape[0] or not down.numel():
        raise CheckpointError(f"{path}: {quoted(name)} has factors of {list(up.shape)} and {list(down.shape)}, which cannot be multiplied.")
    alpha = held.get(ALPHA)
    if alpha is not None and (alpha.numel() != 1 or not alpha.isfinite().all()):
        raise CheckpointError(f"{path}: {quoted(name)}: expected a number as {ALPHA}, got {list(alpha.shape)}.")
    return Factors(up, down, float(down.shape[0] if alpha is None else alpha))


def _recipe(path: Path) -> dict[str, Any]:
    text = read_metadata(path).get(RECIPE, "{}")
    try:
        recipe = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: {RECIPE} in its header is not readable as JSON ({error}).") from error
    return read_recipe(recipe if isinstance(recipe, dict) else {}, str(path))


def write_lora(path: Path, layers: Mapping[str, Factors], recipe: Mapping[str, Any] | None = None) -> None:
    """Write the factors of layers, by `net.module`, and the recipe of a Lora. Raises OSError, see save_tensors."""
    tensors = {}
    for name, factors in layers.items():
        tensors |= {f"{name}.{UP}": factors.up, f"{name}.{DOWN}": factors.down, f"{name}.{ALPHA}": torch.tensor(factors.alpha)}
    save_tensors(path, tensors, {"format": "pt"} | ({RECIPE: json.dumps(dict(recipe))} if recipe else {}))
