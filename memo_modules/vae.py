"""What the sampler asks of a VAE, and diffusers' AutoencoderKL behind it."""

import math
import re
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoints import REPAIR, assign_weights, check_numbers, read_json, read_weights
from .errors import CheckpointError
from .models.config import check_whole

VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"

SCALING_FACTOR = 0.18215
"""Of all VAEs of Stable Diffusion 1: their latents times this are of about unit size."""

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of the parts of attention in the published file; diffusers has others since."""

_PUBLISHED_WIDTHS = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


class VideoVAE(Protocol):
    """Pictures to scaled latents and back; the factor between picture and latent is whatever the VAE makes it. The sampler
    hands in all pictures of a clip: how many are computed at once is for the VAE to say, which knows what they take."""

    def encode(self, images: Tensor) -> Tensor:
        """(n 3 H W) in [-1, 1] to the posterior mean times the scaling factor (n c h w)."""

    def decode(self, latents: Tensor) -> Tensor:
        """(n c h w) as ``encode`` gives them to float32 pictures (n 3 H W) in [0, 1]."""


class DiffusersVAE:
    """VideoVAE on a diffusers AutoencoderKL, in its own dtype and on its own device, ``batch`` pictures at once."""

    def __init__(self, autoencoder, batch: int = 1):
        self.autoencoder, self.batch = autoencoder, batch

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        vae = self.autoencoder
        batches = images.to(vae.device, vae.dtype).split(self.batch)
        return torch.cat([vae.encode(batch).latent_dist.mode() for batch in batches]) * vae.config.scaling_factor

    @torch.no_grad()
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, scaled as ``encode`` scales, which gives the mean alone.

        They may take part in a graph, unlike what is made in inference mode.
        """
        vae = self.autoencoder
        posteriors = [vae.encode(batch).latent_dist for batch in images.to(vae.device, vae.dtype).split(self.batch)]
        mean, std = (torch.cat([getattr(each, part) for each in posteriors]) for part in ("mean", "std"))
        return mean * vae.config.scaling_factor, std * vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.autoencoder
        batches = (latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).split(self.batch)
        return torch.cat([(vae.decode(batch).sample / 2 + 0.5).clamp(0, 1).float() for batch in batches])


def check_autoencoder(place: Path) -> None:
    """Raises CheckpointError when header and config tell that ``place``, see load_autoencoder, is no VAE with the latents
    of Stable Diffusion 1."""
    folder = place.is_dir()
    file = place / VAE_WEIGHTS if folder else place
    shapes = read_weights(file, header_only=True)
    check_numbers(shapes, file)
    config = _checked_config(place / "config.json") if folder else {}
    key, latents = "decoder.conv_in.weight", shapes.get("decoder.conv_in.weight")
    if latents is None:
        raise CheckpointError(f"{place} is not a VAE: {key!r} is missing. Use sd-vae-ft-mse.")
    if latents.ndim != 4 or latents.shape[1] != 4 or config.get("scaling_factor", SCALING_FACTOR) != SCALING_FACTOR:
        raise CheckpointError(
            f"{place} is the VAE of another model: {latents.shape[1]} latent channels, scaling factor {config.get('scaling_factor', 'unknown')}; "
            f"expected 4 and {SCALING_FACTOR}, those of Stable Diffusion 1. Use sd-vae-ft-mse."
        )


def _checked_config(path: Path) -> dict:
    """Raises CheckpointError for sizes in which nothing could be built, or not within a lifetime."""
    config = read_json(path)
    for name, highest in (("block_out_channels", 8192), ("layers_per_block", 16), ("latent_channels", 64), ("norm_num_groups", 8192)):
        values = config.get(name)
        for value in values if name == "block_out_channels" and isinstance(values, list) and len(values) <= 16 else [values]:
            check_whole(value, name, 1, highest, str(path))
    return config


def autoencoder_weights(place: Path) -> dict[str, Tensor]:
    """Those of the VAE in ``place``, see load_autoencoder, under the names that diffusers has for them today."""
    path = place / VAE_WEIGHTS if place.is_dir() else place
    weights = read_weights(path)
    check_numbers(weights, path)
    if "decoder.mid.block_1.norm1.weight" in weights:
        raise CheckpointError(
            f"{path} has the names of Stable Diffusion's own code, which only ComfyUI's VAE loader reads; expected those of diffusers. "
            "Use sd-vae-ft-mse.safetensors."
        )
    return {re.sub(r"(?<=\.attentions\.0\.)\w+", lambda name: _OLD_NAMES.get(name[0], name[0]), key): tensor for key, tensor in weights.items()}


def load_autoencoder(place: Path, dtype: torch.dtype = torch.float32):
    """diffusers' AutoencoderKL from a folder as diffusers writes it, or from a single file of sd-vae-ft-mse, on the CPU.
    Raises CheckpointError when there is no such VAE."""
    from diffusers import AutoencoderKL

    check_autoencoder(place)
    config = read_json(place / "config.json") if place.is_dir() else _PUBLISHED_WIDTHS
    try:
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(config)
    except Exception as error:  # diffusers' errors have no common base
        raise CheckpointError(f"{place}: its config.json does not describe a VAE that can be built ({error}). {REPAIR}") from error
    assign_weights(vae, autoencoder_weights(place), place)
    return nn.Module.to(vae, dtype)  # its own `to` warns of nothing


def widened(weights: dict[str, Tensor], config: dict, multiple: int = 32) -> tuple[dict[str, Tensor], dict]:
    """An AutoencoderKL, see autoencoder_weights, and its config at widths that are multiples of ``multiple``.

    It computes the same: the added channels and the added groups of its norms are zero throughout. For code that can
    build no narrower one.
    """
    from diffusers import AutoencoderKL

    factor = multiple // math.gcd(multiple, *config["block_out_channels"])
    widths = [factor * c for c in config["block_out_channels"]]
    config = {**config, "block_out_channels": widths, "norm_num_groups": factor * config.get("norm_num_groups", 32)}
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in AutoencoderKL.from_config(config).state_dict().items()}
    padded = {}
    for key, shape in shapes.items():
        missing = [target - size for size, target in zip(weights[key].shape, shape, strict=True)]
        padded[key] = F.pad(weights[key], [side for size in reversed(missing) for side in (0, size)])
        if ".to_q." in key:  # attention divides by the root of its width
            padded[key] *= factor**0.5
    return padded, config
