"""A tiny upscaling model as ComfyUI's Load Upscale Model takes it (RealESRGAN's compact form); doubles a picture's width and height."""

from pathlib import Path

import torch
from torch import Generator

FEATURES, SCALE = 4, 2


def write_tiny_upscaler(file: Path, strength: float = 0.1, seed: int = 0) -> Path:
    """Write one of random weights of that strength, as .safetensors or .pth. At 0 it repeats each pixel, which is what the form adds to."""
    generator = Generator().manual_seed(seed)
    channels = [(3, FEATURES), (FEATURES, FEATURES), (FEATURES, 3 * SCALE**2)]  # the last ones become 2 x 2 pixels
    weights = {}
    for layer, (inputs, outputs) in enumerate(channels):
        weights[f"body.{2 * layer}.weight"] = strength * torch.randn(outputs, inputs, 3, 3, generator=generator)
        weights[f"body.{2 * layer}.bias"] = torch.zeros(outputs)
        weights[f"body.{2 * layer + 1}.weight"] = torch.full((outputs,), 0.25)
    del weights["body.5.weight"]  # nothing follows the last convolution
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(weights, file)
    else:
        torch.save(weights, file)
    return file
