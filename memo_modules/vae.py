"""What the sampler asks of a VAE, and diffusers' AutoencoderKL behind it."""

from typing import Protocol

import torch
from torch import Tensor


class VideoVAE(Protocol):
    """Pictures to scaled latents and back. The sampler hands in one picture at a time, so that frames do not depend on
    a batch size; the factor between picture and latent is whatever the VAE makes it."""

    def encode(self, images: Tensor) -> Tensor:
        """(n 3 H W) in [-1, 1] to the posterior mean times the scaling factor (n c h w)."""

    def decode(self, latents: Tensor) -> Tensor:
        """(n c h w) as ``encode`` gives them to float32 pictures (n 3 H W) in [0, 1]."""


class DiffusersVAE:
    """VideoVAE on a diffusers AutoencoderKL, in its own dtype and on its own device."""

    def __init__(self, autoencoder):
        self.autoencoder = autoencoder

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        vae = self.autoencoder
        return vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mode() * vae.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.autoencoder
        pictures = vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        return (pictures / 2 + 0.5).clamp(0, 1).float()
