"""GEGLU, the gate of a feed-forward, which reads the widest tensor of a transformer."""

from collections.abc import Callable

import torch
from torch import Tensor

GegluFunction = Callable[[Tensor], Tensor]
"""value · gelu(gate) of x (n 2d), its two halves, without gradients -> (n d). x may be overwritten, also by the result."""


def geglu(x: Tensor) -> Tensor:
    """GegluFunction in torch's own operations; in place, so that the widest tensor of all is not held twice."""
    value, gate = x.chunk(2, dim=-1)
    return value.mul_(torch.ops.aten.gelu_(gate))
