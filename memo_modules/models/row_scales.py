"""Weights in 8 bits with a scale for each output row: as far from the real ones in a row of small weights as in one of large ones."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 2**14
"""Numbers of a weight up to which it stays as it is: it takes next to nothing, and ComfyUI loads layers of fewer bytes in a way of its own."""


def rounded(weight: Tensor, dtype: torch.dtype, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``weight`` (out ..) in ``dtype``, int8 or float8, and the scale (out 1 ..) of its rows in ``scale_dtype``; their product is near it."""
    largest = (torch.finfo if dtype.is_floating_point else torch.iinfo)(dtype).max
    rows = weight.float()
    scale = rows.abs().flatten(1).amax(dim=1) / largest
    # as it will be used: what it loses by rounding is not lost again
    scale = scale.to(scale_dtype).view(-1, *[1] * (weight.ndim - 1))
    held = (rows / torch.where(scale == 0, 1, scale)).clamp_(-largest, largest)
    return (held if dtype.is_floating_point else held.round_()).to(dtype), scale


@cache
def with_row_scale(kind: type) -> Callable[..., nn.Module]:
    """The class ``kind``, a Linear or a convolution of torch's or of ComfyUI's, whose weight is in ``stored``, int8 or float8, once it is
    loaded, with the scale of its rows in ``row_scale``. It is rounded as it is loaded. For use without gradients."""

    class Scaled(kind):
        def __init__(self, *args, stored: torch.dtype, **kwargs):
            super().__init__(*args, **kwargs)
            self.stored = stored
            self.weight.requires_grad_(False)  # or torch would refuse whole numbers in its place
            self.register_buffer("row_scale", self.weight.new_empty(len(self.weight), *[1] * (self.weight.ndim - 1)))
            self.weight_function = []

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            key = f"{prefix}weight"
            if key in state_dict:
                state_dict[key], state_dict[f"{prefix}row_scale"] = rounded(state_dict[key], self.stored, self.row_scale.dtype)
            super()._load_from_state_dict(state_dict, prefix, *rest)

        def scaled(self, weight: Tensor) -> Tensor:
            """The real weights, of a copy of those that are stored, in another dtype; it is overwritten."""
            if self.row_scale.device != weight.device:  # of a weight that is streamed it stays there
                self.row_scale = self.row_scale.to(weight.device)
            return weight.mul_(self.row_scale.to(weight.dtype))

        @property
        def weight_function(self) -> list[Callable[[Tensor], Tensor]]:
            """What ComfyUI calls, one after the other, with a weight that it has cast for one use; LoRAs come after the scale."""
            return self._functions

        @weight_function.setter
        def weight_function(self, functions: list[Callable[[Tensor], Tensor]]) -> None:
            self._functions = [self.scaled, *(function for function in functions if function != self.scaled)]

        def forward(self, x: Tensor) -> Tensor:
            if hasattr(kind, "weight_function"):
                return super().forward(x)
            weight = self.scaled(self.weight.to(x.dtype))
            return F.linear(x, weight, self.bias) if isinstance(self, nn.Linear) else self._conv_forward(x, weight, self.bias)

    return Scaled
