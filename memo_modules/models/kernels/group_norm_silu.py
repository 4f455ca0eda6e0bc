"""Group norm, and the SiLU after it, of channels_last pictures, which torch converts to another memory format and back."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .in_place import lent

GroupNormSiluFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, float, bool, int], Tensor]
"""x (n t c), weight and bias (c,), what is taken off x before (c,), eps, whether SiLU follows, groups; without gradients -> (n t c).
One set of statistics for each n and group; x and the result are contiguous."""


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, ahead: Tensor | None, eps: float, silu: bool, groups: int) -> Tensor:
    """GroupNormSiluFunction in torch's own operations."""
    out = F.group_norm((x if ahead is None else x - ahead).mT, groups, weight, bias, eps)
    return (F.silu(out, inplace=True) if silu else out).mT.contiguous()


@cache
def with_kernel(layer: type[nn.GroupNorm]) -> Callable[..., nn.GroupNorm]:
    """The class ``layer``, a GroupNorm of torch's or of ComfyUI's, with SiLU after it where ``silu`` asks for it, that lets
    ``kernel``, a GroupNormSiluFunction or None, do both where channels come last."""

    class GroupNorm(layer):
        def __init__(self, *args, kernel: GroupNormSiluFunction | None = None, silu: bool = False, **kwargs):
            super().__init__(*args, **kwargs)
            self.kernel, self.silu = kernel, silu
            self.out_dtype: torch.dtype | None = None  # by default that of x

        def forward(self, x: Tensor, ahead: Tensor | None = None) -> Tensor:
            """x (n c ...) -> the same shape. ahead (c,): is taken off x before."""
            out = self._normed(x, ahead)
            return out if self.out_dtype is None else out.to(self.out_dtype)

        def _normed(self, x: Tensor, ahead: Tensor | None) -> Tensor:
            last = x.movedim(1, -1)
            with lent(self, x) if self.kernel and last.is_contiguous() else nullcontext() as weights:
                if self.kernel and weights and weights[1] is not None:
                    out = self.kernel(last.flatten(1, -2), weights[0], weights[1], ahead, self.eps, self.silu, self.num_groups)
                    return out.view(last.shape).movedim(-1, 1)
            out = super().forward(x if ahead is None else x - ahead.view(-1, *[1] * (x.ndim - 2)))
            return F.silu(out, inplace=not torch.is_grad_enabled()) if self.silu else out

    return GroupNorm
