"""Pictures as they are checked, and the portrait in the form that the sampler takes."""

from math import isfinite

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..vae import MULTIPLE
from ..values import FLOATS, tensor_fault

SMALLEST = 64
"""Pixels: with a shorter side than this there is no usable face."""

_UNSEEN = 1.01
"""Change of the ratio of width to height that nobody sees."""

OVERSHOOT = 0.5
"""How far resizing and sharpening may exceed [0, 1]; anything further out is a picture in another range."""


def rgb_picture(image: Tensor, name: str = "image") -> Tensor:
    """One picture (1 h w 3), or grey (1 h w 1), as float32 RGB (1 h w 3) in [0, 1].

    Values slightly outside are clamped; a picture that needs no change is returned without a copy. Raises InputError, naming the input, for
    a batch, transparency, a side of less than 64 pixels, integers, and values that are not finite or in another range.
    """
    if isinstance(image, Tensor) and image.ndim == 4 and image.shape[-1] in (1, 3) and image.shape[0] != 1:
        raise InputError(f"{name}: expected one picture, got a batch of {image.shape[0]}. Pick one with Get Image from Batch.")
    return _rgb(image, name, "one RGB picture (1, height, width, 3)")


def rgb_frames(images: Tensor, name: str = "images") -> Tensor:
    """The same for one or more pictures of the same size (f h w 3)."""
    if isinstance(images, Tensor) and images.ndim == 4 and not len(images):
        raise InputError(f"{name}: expected one frame or more, got none.")
    return _rgb(images, name, "RGB pictures (frames, height, width, 3)")


def _rgb(image: Tensor, name: str, expected: str) -> Tensor:
    if not isinstance(image, Tensor):
        raise InputError(f"{name}: expected a picture as a tensor, got {type(image).__name__}.")
    if fault := tensor_fault(image):
        raise InputError(f"{name}: {fault}")
    if image.ndim != 4 or image.shape[-1] not in (1, 3):
        hint = " Remove the alpha channel with Split Image with Alpha." if image.shape[-1:] == (4,) else ""
        raise InputError(f"{name}: expected {expected}, got shape {list(image.shape)}.{hint}")
    if min(image.shape[1:3]) < SMALLEST:
        raise InputError(f"{name}: expected at least {SMALLEST} x {SMALLEST} pixels, got {image.shape[2]} x {image.shape[1]}.")
    if image.dtype not in FLOATS:
        raise InputError(f"{name}: expected floating-point values in [0, 1], got {image.dtype}. Divide them by 255.")
    lowest, highest = (float(value) for value in torch.aminmax(image.detach()))
    if not isfinite(lowest) or not isfinite(highest):
        raise InputError(f"{name}: some values are NaN or infinite. Look at the node that made this picture.")
    if lowest < -OVERSHOOT or highest > 1 + OVERSHOOT:
        raise InputError(f"{name}: expected values in [0, 1], got {lowest:g} to {highest:g}. Look at the node that made this picture.")
    pixels = image.detach().resolve_neg().float()
    if lowest < 0 or highest > 1:
        pixels = pixels.clamp(0, 1)
    return pixels.expand(-1, -1, -1, 3)


def eight_bits(pixels: Tensor) -> np.ndarray:
    """Values in [0, 1] as the nearest uint8."""
    return (pixels * 255).round().to(torch.uint8).numpy()


def squash_note(
    picture: tuple[int, int], size: tuple[int, int], remedy: str = "MEMO Crop Portrait keeps its shape, with equal width and height"
) -> str:
    """A sentence for the user where prepare_portrait squashes a picture to ``size``, both (width, height); nothing where it keeps its shape."""
    wider = (size[0] / size[1]) / (picture[0] / picture[1])
    by, how = max(wider, 1 / wider), "wide" if wider > 1 else "narrow"
    if by < _UNSEEN:
        return ""
    return f"image: {picture[0]} x {picture[1]} squashed to {size[0]} x {size[1]}, {by:.2f} times too {how}: {remedy}."


def prepare_portrait(image: Tensor, width: int, height: int) -> Tensor:
    """A picture (1 h w 3) in [0, 1] as the sampler's portrait (1 3 height width) in [-1, 1].

    Another aspect ratio is squashed, as in the published code; crop beforehand to keep it. Raises InputError for
    pictures that rgb_picture refuses, and for sizes that are not a multiple of 8.
    """
    for name, size in (("width", width), ("height", height)):
        if size < SMALLEST or size % MULTIPLE:
            raise InputError(f"{name}: expected a multiple of {MULTIPLE} of at least {SMALLEST}, got {size}.")
    pixels = rgb_picture(image).movedim(-1, 1)
    if pixels.shape[2:] != (height, width):
        pixels = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    return pixels * 2 - 1
