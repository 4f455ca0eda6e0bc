"""A convolution of few places is a matrix product: on the CPU torch would first lay its whole kernel out anew, at every call."""

from functools import cache

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

_OUTPUTS_PER_PLACE = 4
"""From how many on the product is the faster one: measured at 320 to 2560 channels, in float32."""


def is_small(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether a convolution of x (n c h w) by weight (o c k k) has so few places, over all n, that the kernel is what it costs."""
    n, _, h, w = x.shape
    return weight.shape[0] >= _OUTPUTS_PER_PLACE * n * -(-h // stride) * -(-w // stride)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """F.conv2d of x (n c h w) by weight (o c k k), k odd, with a padding of k // 2, as one product of every place's patch."""
    k = weight.shape[-1]
    patches = F.pad(x, (k // 2,) * 4).unfold(2, k, stride).unfold(3, k, stride)
    out = F.linear(rearrange(patches, "n c h w i j -> n h w (c i j)"), weight.flatten(1), bias)
    return rearrange(out, "n h w o -> n o h w").contiguous()  # the order in which the CPU's convolutions are fastest


@cache
def with_products(conv2d: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The class ``conv2d``, a Conv2d of torch's or of ComfyUI's, that takes the product where it is the faster one. For square
    odd kernels with a padding of k // 2."""

    class Conv2d(conv2d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # where ComfyUI's casts meet, too
            stride = self.stride[0]
            if x.device.type == "cpu" and is_small(x, weight, stride):
                return product(x, weight, bias, stride)
            return super()._conv_forward(x, weight, bias)

    return Conv2d
