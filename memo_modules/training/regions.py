"""How the regions of a net run in training: motion modules make their memory themselves, and activations may be checkpointed."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models.motion import MotionModule


class PastFrames(NamedTuple):
    """Past frames of one clip as a motion module sees them. A tuple of those of a clip and of the clips before it, oldest first, replaces the
    memory made from them, which is larger: 3.5 GB at 512×512 in bfloat16.

    features: of ((b count)) past frames at its layer, oldest first in each clip.
    """

    features: Tensor
    count: int

    def rows(self, rows: Tensor) -> "PastFrames":
        """Those of the clips ``rows`` (n,)."""
        return PastFrames(self.features.unflatten(0, (-1, self.count))[rows].flatten(0, 1), self.count)


def direct(module: nn.Module, *args):
    """The output of ``module`` for ``args``; a motion module takes a tuple of PastFrames as its memory."""
    x, *rest = args
    if x.device.type == "cpu" and not x.requires_grad and any(parameter.requires_grad for parameter in module.parameters()):
        # torch 2.13 crashes in the backward pass of a channels-last group norm whose weights are trained while its input needs no
        # gradient: so the first region that trains computes the gradient of its input in vain
        x = x.detach().requires_grad_(torch.is_grad_enabled())
    if not isinstance(module, MotionModule):
        return module(x, *rest)
    pasts, *rest = rest
    memory = None
    with torch.no_grad():  # as in the published code: only the frames of the clip train the weights that past frames share
        for past in pasts:
            memory = module.update_memory(past.features, memory, past.count)
    return module(x, memory, *rest)


def checkpointed(module: nn.Module, *args):
    """The same, keeping only ``args`` for the backward pass, which computes the rest again."""
    # nothing in the nets is random: the state of the generators need not be kept
    return checkpoint(direct, module, *args, use_reentrant=False, preserve_rng_state=False)
