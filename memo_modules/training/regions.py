"""How the regions of a net run in training: motion modules make their memory themselves, and all may be checkpointed."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models.motion import MotionModule


class PastFrames(NamedTuple):
    """Past frames of one clip as a motion module sees them. A tuple of those of a clip and of the clips before it, oldest
    first, is in the place of the memory made of them, which is larger: 3.5 GB at 512×512 in bfloat16.

    features: of ((b count)) past frames at its layer, oldest first in each clip.
    """

    features: Tensor
    count: int


def direct(module: nn.Module, *args):
    """What ``module`` makes of ``args``; a motion module takes a tuple of PastFrames for its memory."""
    x, *rest = args
    if x.device.type == "cpu" and not x.requires_grad and any(parameter.requires_grad for parameter in module.parameters()):
        # torch 2.13 ends with the process in the backward of a channels-last group norm whose weights train and whose
        # input does not: the first region that trains has the gradient of its input computed for nothing
        x = x.detach().requires_grad_(torch.is_grad_enabled())
    if not isinstance(module, MotionModule):
        return module(x, *rest)
    pasts, frames = rest
    memory = None
    with torch.no_grad():  # as published: only the frames of the clip train the weights that past frames share
        for past in pasts:
            memory = module.update_memory(past.features, memory, past.count)
    return module(x, memory, frames)


def checkpointed(module: nn.Module, *args):
    """The same, keeping only ``args`` for the backward pass, which computes the rest again."""
    # nothing in the nets is random: their generators need not be kept
    return checkpoint(direct, module, *args, use_reentrant=False, preserve_rng_state=False)
