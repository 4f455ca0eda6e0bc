"""Convolutions that are faster as matrix products."""

from collections.abc import Callable
from functools import cache

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

ProductFunction = Callable[[Tensor, Tensor, Tensor | None, int], Tensor | None]
"""F.conv2d of x (n c h w) by weight (o c k k), k odd, with a bias (o,) or None, a stride and a padding of k // 2, as a product;
None where the convolution is the faster one."""

_OUTPUTS_PER_PLACE = 4
"""From how many on few_places is the faster one: measured at 320 to 2560 channels, in float32."""


def few_places(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor | None:
    """ProductFunction for the CPU, where torch lays the whole kernel out anew at every call: so it is that which costs when there
    are few places, over all n, to go to."""
    k, (n, _, h, w) = weight.shape[-1], x.shape
    if x.device.type != "cpu" or weight.shape[0] < _OUTPUTS_PER_PLACE * n * -(-h // stride) * -(-w // stride):
        return None
    patches = F.pad(x, (k // 2,) * 4).unfold(2, k, stride).unfold(3, k, stride)
    out = F.linear(rearrange(patches, "n c h w i j -> n h w (c i j)"), weight.flatten(1), bias)
    return rearrange(out, "n h w o -> n o h w").contiguous()  # the order in which the CPU's convolutions are fastest


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor | None:
    """ProductFunction for cards and pictures with their channels last: one product of 1x1 kernels, which adds the bias, too;
    behind a convolution that is a pass of its own."""
    places = x.movedim(1, -1)
    if weight.shape[-1] != 1 or stride != 1 or not places.is_contiguous():
        return None
    out = F.linear(places.flatten(0, 2), weight.flatten(1), bias)  # as a matrix, or the bias is a pass again
    return out.unflatten(0, places.shape[:3]).movedim(-1, 1)


@cache
def with_product(conv2d: type[nn.Conv2d]) -> Callable[..., nn.Conv2d]:
    """The class ``conv2d``, a Conv2d of torch's or of ComfyUI's, that asks ``product``, a ProductFunction, first. For square odd
    kernels with a padding of k // 2."""

    class Conv2d(conv2d):
        def __init__(self, *args, product: ProductFunction, **kwargs):
            super().__init__(*args, **kwargs)
            self.product = product

        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # where ComfyUI's casts meet, too
            out = self.product(x, weight, bias, self.stride[0])
            return super()._conv_forward(x, weight, bias) if out is None else out

    return Conv2d
