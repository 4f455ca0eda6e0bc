"""Tiny models that change pictures, as ComfyUI's loaders take them: one that doubles width and height, one that computes frames in between."""

from pathlib import Path

import torch
from torch import Generator, Tensor

FEATURES, SCALE = 4, 2


def write_tiny_upscaler(file: Path, strength: float = 0.1, seed: int = 0) -> Path:
    """RealESRGAN's compact form, of random weights of that strength; at 0 it repeats each pixel, which is what it adds to."""
    generator = Generator().manual_seed(seed)
    channels = [(3, FEATURES), (FEATURES, FEATURES), (FEATURES, 3 * SCALE**2)]  # the last ones become 2 x 2 pixels
    weights = {}
    for layer, (inputs, outputs) in enumerate(channels):
        weights[f"body.{2 * layer}.weight"] = strength * torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights[f"body.{2 * layer}.bias"] = torch.zeros(outputs)
        weights[f"body.{2 * layer + 1}.weight"] = torch.full((outputs,), 0.25)
    del weights["body.5.weight"]  # nothing follows the last convolution
    return _write(weights, file)


def write_tiny_interpolator(file: Path, strength: float = 0.1, seed: int = 0) -> Path:
    """RIFE 4.25, of random weights of that strength; at 0 nothing moves, and what is in between is the mean."""
    generator, head, wide, narrow = Generator().manual_seed(seed), 4, 4, 2
    shapes = {"encode.cnn0": (16, 3, 3, 3), "encode.cnn1": (16, 16, 3, 3), "encode.cnn2": (16, 16, 3, 3), "encode.cnn3": (16, head, 4, 4)}
    for block in range(5):
        channels = 7 + 2 * head if block == 0 else 20 + 2 * head
        shapes[f"block{block}.conv0.0.0"] = (narrow, channels, 3, 3)
        shapes[f"block{block}.conv0.1.0"] = (wide, narrow, 3, 3)
        shapes |= {f"block{block}.convblock.{layer}.conv": (wide, wide, 3, 3) for layer in range(8)}
        shapes[f"block{block}.lastconv.0"] = (wide, 4 * 13, 4, 4)
    transposed = ("cnn3", "lastconv.0")
    weights = {f"{name}.weight": strength * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": torch.zeros(shape[name.endswith(transposed)]) for name, shape in shapes.items()}
    weights |= {f"block{block}.convblock.{layer}.beta": torch.ones(1, wide, 1, 1) for block in range(5) for layer in range(8)}
    return _write(weights, file)


def _write(weights: dict[str, Tensor], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(weights, file)
    else:
        torch.save(weights, file)
    return file
