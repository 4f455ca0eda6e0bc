"""Weights that a layer lends, so that what surrounds it becomes part of its product."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Weights = tuple[Tensor, Tensor | None]
"""Weight and bias."""

Lender = Callable[[Any, Tensor], AbstractContextManager[Weights | None]]
"""What a layer would use for x, while the context is open: on its device, in its dtype. None where only the layer itself can compute."""


def own_weights(layer: Any, x: Tensor) -> AbstractContextManager[Weights | None]:
    """Lender of layers that use their weights as they are, or times the scale of each row, see row_scales."""
    if hasattr(layer, "row_scale"):
        here = layer.weight.device == x.device
        return nullcontext((layer.scaled(layer.weight.to(x.dtype)), layer.bias) if here else None)
    fits = layer.weight.device == x.device and layer.weight.dtype == x.dtype
    return nullcontext((layer.weight, layer.bias) if fits else None)


def lent(layer: nn.Module, x: Tensor) -> AbstractContextManager[Weights | None]:
    """See Lender. None, too, where the layer has to be called: for gradients, for a compiler, which makes one kernel of all by itself, and
    for what a hook adds, as a LoRA in training does."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or layer._forward_hooks:
        return nullcontext()
    lender: Lender = getattr(layer, "lender", own_weights)
    return lender(layer, x)


def add_product(x: Tensor, layer: Any, y: Tensor) -> Tensor:
    """x (n d_out) and what ``layer``, a linear or a 1x1 convolution, makes of y (n d_in) but for its bias, as one product, which overwrites x.

    A product adds to what is there already or to a bias, not to both: the biases are added elsewhere, see diffusion_net.LayerBiases.
    """
    with lent(layer, y) as weights:
        if weights:
            return torch.addmm(x, y, weights[0].flatten(1).mT, out=x)
    return x + of_positions(layer, y) - bias_of(layer, y)


def add_to_picture(x: Tensor, layer: Any, y: Tensor) -> Tensor:
    """add_product of a picture x (n c h w) with its channels last, and y (n·h·w d)."""
    rows = x.movedim(1, -1)
    return add_product(rows.flatten(0, 2), layer, y).view(rows.shape).movedim(-1, 1)


def bias_of(layer: Any, like: Tensor) -> Tensor:
    """The bias (1 d_out) of a linear or a 1x1 convolution."""
    return of_positions(layer, like.new_zeros(1, layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features))


def of_positions(layer: Any, y: Tensor) -> Tensor:
    """What a linear or a 1x1 convolution makes of y (n d_in)."""
    return layer(y[:, :, None, None]).flatten(1) if isinstance(layer, nn.Conv2d) else layer(y)


def is_bare(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer`` does nothing to x but what its own weights say, so that gradients can go through them directly."""
    return getattr(layer, "lender", own_weights) is own_weights and layer.weight.dtype == x.dtype and not layer._forward_hooks
