"""The portrait as the sampler takes it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError

SMALLEST = 64
"""Pixels of a side below which there is no face to speak of."""

MULTIPLE = 8
"""Pixels per latent of a Stable Diffusion 1 VAE; width and height are multiples of it."""


def check_picture(image: Tensor, name: str = "image") -> None:
    """Raises InputError naming the input when ``image`` is not one finite RGB picture (1 h w 3) of 64 pixels or more."""
    if image.ndim != 4 or image.shape[-1] != 3:
        raise InputError(
            f"{name}: expected one RGB picture (1, height, width, 3), got shape {list(image.shape)}. "
            "A picture with transparency loses its fourth channel in Split Image with Alpha."
        )
    if image.shape[0] != 1:
        raise InputError(f"{name}: expected one picture, got a batch of {image.shape[0]}. Pick one with Get Image from Batch.")
    if min(image.shape[1:3]) < SMALLEST:
        raise InputError(f"{name}: expected at least {SMALLEST} x {SMALLEST} pixels, got {image.shape[2]} x {image.shape[1]}.")
    if not torch.isfinite(image).all():
        raise InputError(f"{name}: some values are NaN or infinite. Look at the node that made this picture.")


def prepare_portrait(image: Tensor, width: int, height: int) -> Tensor:
    """A picture (1 h w 3) in [0, 1] as the sampler's portrait (1 3 height width) in [-1, 1].

    Another aspect ratio is squashed, as the model was made with; crop beforehand to keep it. Raises InputError for
    anything but one RGB picture and for sizes that are no multiple of 8.
    """
    check_picture(image)
    for name, size in (("width", width), ("height", height)):
        if size < SMALLEST or size % MULTIPLE:
            raise InputError(f"{name}: expected a multiple of {MULTIPLE} of at least {SMALLEST}, got {size}.")
    pixels = image.movedim(-1, 1).float().clamp(0, 1)
    if pixels.shape[2:] != (height, width):
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    return pixels * 2 - 1
