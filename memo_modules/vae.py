"""What the sampler asks of a VAE, and diffusers' AutoencoderKL behind it."""

from typing import Protocol

import torch
from torch import Tensor


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
