"""Training low-rank factors of frozen weights: a hundredth of the numbers to update, and a file of tens of megabytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..sampler.sampling import MemoNets
from ..weights.checkpoints import NETS
from ..weights.lora import DOWN, UP, Factors, write_lora
from .parameters import Trainable, set_trainable
from .stream import generator_of

FILE = "lora.safetensors"
"""In a checkpoint of such a training, for `models/loras`."""


@dataclass(frozen=True)
class LoraSettings:
    """rank: of the factors. alpha: their product counts alpha / rank times; None for the rank itself."""

    rank: int = 16
    alpha: float | None = None

    def __post_init__(self):
        if self.rank < 1:
            raise InputError(f"lora.rank: expected a whole number from 1 on, got {self.rank}.")
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise InputError(f"lora.alpha: expected a number above 0 or null, got {self.alpha}.")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


def add_factors(nets: MemoNets, trainable: Trainable, settings: LoraSettings, seed: int) -> dict[str, nn.Parameter]:
    """Add factors to all linears and 1x1 convolutions that ``trainable`` names, and have nothing else train; `net.parameter` to theirs.

    At first they change nothing. Their random numbers depend on ``seed`` and the layer's name alone. Raises InputError, see set_trainable.
    """
    chosen = set_trainable(nets, trainable)
    trained = {}
    for net in NETS:
        for name, layer in list(getattr(nets, net).named_modules()):
            if f"{net}.{name}.weight" in chosen and _takes_factors(layer):
                factors = _add(layer, settings, generator_of(seed, f"lora {net}.{name}", 0))
                trained |= {f"{net}.{name}.{key}": factor for key, factor in factors.items()}
    for name, parameter in chosen.items():
        parameter.requires_grad_(name in trained)
    if not trained:
        raise InputError("trainable: expected modules with linears or 1x1 convolutions, which is what lora needs; there are none in those.")
    return trained


def _takes_factors(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1)


def _add(layer: nn.Linear | nn.Conv2d, settings: LoraSettings, generator: torch.Generator) -> dict[str, Any]:
    d_out, d_in = layer.weight.shape[:2]
    kind = nn.Linear if isinstance(layer, nn.Linear) else partial(nn.Conv2d, kernel_size=1)
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    down, up = kind(d_in, settings.rank, bias=False, **like), kind(settings.rank, d_out, bias=False, **like)
    layer.lora_down, layer.lora_up = down, up
    with torch.no_grad():
        down.weight.copy_((2 * torch.rand(down.weight.shape, generator=generator) - 1) / d_in**0.5)
        up.weight.zero_()
    layer.register_forward_hook(partial(_with_factors, scale=settings.scale))
    return {DOWN: down.weight, UP: up.weight}


def _with_factors(layer: Any, inputs: tuple[Tensor, ...], out: Tensor, scale: float) -> Tensor:
    return torch.add(out, layer.lora_up(layer.lora_down(inputs[0])), alpha=scale)


def write_factors(
    folder: Path, settings: LoraSettings, weights: Mapping[str, Tensor], dtype: torch.dtype, recipe: Mapping[str, Any] | None = None
) -> None:
    """Write FILE into ``folder``. weights: by the names that add_factors gave, of any precision. recipe: see Lora."""
    alpha = settings.scale * settings.rank
    layers = [name.removesuffix(f".{UP}") for name in weights if name.endswith(f".{UP}")]
    held = {name: tensor.to(dtype) for name, tensor in weights.items()}
    write_lora(folder / FILE, {layer: Factors(held[f"{layer}.{UP}"], held[f"{layer}.{DOWN}"], alpha) for layer in layers}, recipe)
