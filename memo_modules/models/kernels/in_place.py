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
    """Lender of layers that use their weights as they are."""
    fits = layer.weight.device == x.device and layer.weight.dtype == x.dtype
    return nullcontext((layer.weight, layer.bias) if fits else None)


def lent(layer: nn.Module, x: Tensor) -> AbstractContextManager[Weights | None]:
    """See Lender. None, too, where the layer has to be called: for gradients, for a compiler, which makes one kernel of all by itself, and
    for what a hook adds, as a LoRA in training does."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or layer._forward_hooks:
        return nullcontext()
    lender: Lender = getattr(layer, "lender", own_weights)
    return lender(layer, x)


def is_bare(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``layer`` does nothing to x but what its own weights say, so that gradients can go through them directly."""
    return getattr(layer, "lender", own_weights) is own_weights and layer.weight.dtype == x.dtype and not layer._forward_hooks
