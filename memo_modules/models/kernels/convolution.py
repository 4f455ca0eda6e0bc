"""Convolutions that are faster as matrix products."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

MatmulConvFunction = Callable[[Tensor, Tensor, Tensor | None, int], Tensor | None]
"""F.conv2d of x (n c h w) by weight (o c k k), k odd, with a bias (o,) or None, a stride and a padding of k // 2, as a matmul;
None where the convolution is the faster one."""

_OUTPUTS_PER_POSITION = 4
"""From how many on few_positions is the faster one: measured at 320 to 2560 channels, in float32."""


def few_positions(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor | None:
    """MatmulConvFunction for the CPU, where torch reorders the whole kernel at every call: with few output positions
    over all n, that is what takes the time."""
    k, (n, _, h, w) = weight.shape[-1], x.shape
    if x.device.type != "cpu" or weight.shape[0] < _OUTPUTS_PER_POSITION * n * -(-h // stride) * -(-w // stride):
        return None
    patches = F.pad(x, (k // 2,) * 4).unfold(2, k, stride).unfold(3, k, stride)
    out = F.linear(rearrange(patches, "n c h w i j -> n h w (c i j)"), weight.flatten(1), bias)
    return rearrange(out, "n h w o -> n o h w").contiguous()  # the order in which the CPU's convolutions are fastest


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor | None:
    """MatmulConvFunction for GPUs and channels_last pictures: 1x1 kernels as one matmul, which adds the bias, too; after a
    convolution that is a pass of its own."""
    positions = x.movedim(1, -1)
    if weight.shape[-1] != 1 or stride != 1 or not positions.is_contiguous():
        return None
    out = F.linear(positions.flatten(0, 2), weight.flatten(1), bias)  # as a matrix, or the bias is a pass again
    return out.unflatten(0, positions.shape[:3]).movedim(-1, 1)


@cache
def with_matmul(conv2d: type[nn.Conv2d]) -> Callable[..., nn.Conv2d]:
    """The class ``conv2d``, a Conv2d of torch's or of ComfyUI's, that asks ``conv_as_matmul``, a MatmulConvFunction, first. For square odd
    kernels with a padding of k // 2."""

    class Conv2d(conv2d):
        def __init__(self, *args, conv_as_matmul: MatmulConvFunction, **kwargs):
            super().__init__(*args, **kwargs)
            self.conv_as_matmul = conv_as_matmul
            self.shift: Tensor | None = None

        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # where ComfyUI's casts meet, too
            if self.shift is not None:
                bias = self.shift if bias is None else bias + self.shift
            out = self.conv_as_matmul(x, weight, bias, self.stride[0])
            return super()._conv_forward(x, weight, bias) if out is None else out

    return Conv2d


def plus_shift(conv: Any, x: Tensor, shift: Tensor) -> Tensor:
    """conv(x) + shift, which is (1 or n, c). One row becomes part of the bias, which saves a pass over the result."""
    if len(shift) > 1 or not hasattr(conv, "shift") or torch.compiler.is_compiling():
        return conv(x) + shift[:, :, None, None]
    conv.shift = shift[0]
    try:
        return conv(x)
    finally:
        conv.shift = None
