"""A small decoder for latents of Stable Diffusion 1, in place of the VAE's own: an eighteenth of its operations, for drafts.

It is the published taesd, in diffusers' class. It makes the frames that are shown; what later clips look back on still comes from the VAE, so
its faults do not add up.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .weights.checkpoints import REPAIR, assign_weights, read_weights

DECODERS = ("full", "small")
"""What makes the frames that are shown: the VAE, or a small decoder."""

KIND, FILE = "vae_approx", "taesd_decoder.safetensors"
"""The folder of ComfyUI's models that it lies in, and its name there."""

Decode = Callable[[Tensor], Tensor]
"""From latents (n c h w), as VideoVAE.encode gives them, to float32 pictures (n 3 H W) in [0, 1]."""

_BLOCKS, _BATCH = (3, 3, 3, 1), 4


class SmallDecoder:
    """A Decode on the ``net`` of load_small_decoder, in its dtype and on its device."""

    def __init__(self, net: nn.Module):
        self.net = net

    @torch.inference_mode()
    def __call__(self, latents: Tensor) -> Tensor:
        like = next(self.net.parameters())
        batches = latents.to(like.device, like.dtype).split(_BATCH)
        return torch.cat([(self.net(batch) / 2 + 0.5).clamp(0, 1).float() for batch in batches])


def find_small_decoder(folders: Sequence[Path]) -> Path:
    """The file in the first of ``folders`` that has it. Raises CheckpointError when none has."""
    for folder in folders:
        if (folder / FILE).is_file():
            return folder / FILE
    raise CheckpointError(
        f"decoder: small needs {FILE}, which is not there. Fetch it from https://huggingface.co/madebyollin/taesd (5 MB) and put it into "
        f"{folders[0]}, or choose full."
    )


def load_small_decoder(path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The decoder in a file of taesd, on the CPU; of any width. Raises CheckpointError when it is no such file."""
    from diffusers.models.autoencoders.vae import DecoderTiny

    weights = read_weights(path)
    first = weights.get("1.weight")
    if first is None or first.ndim != 4 or first.shape[1] != 4:
        raise CheckpointError(f"{path} is not taesd's decoder for Stable Diffusion 1: '1.weight' is not a convolution of 4 channels. {REPAIR}")
    with torch.device("meta"):
        net = DecoderTiny(4, 3, _BLOCKS, (first.shape[0],) * len(_BLOCKS), 2, "relu", "nearest")
    assign_weights(net, {_diffusers_name(key): tensor for key, tensor in weights.items()}, path)
    return net.to(dtype)


def _diffusers_name(key: str) -> str:
    """For a weight of the published file, whose first layer only limits what comes in, and is no layer in diffusers."""
    layer, _, rest = key.partition(".")
    return f"layers.{int(layer) - 1}.{rest}" if layer.isdecimal() and layer.isascii() else key
