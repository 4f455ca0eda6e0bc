"""A LoRA of random factors for a checkpoint, in a file."""

from pathlib import Path

import torch

from memo_modules.weights.checkpoints import net_source
from memo_modules.weights.lora import Factors, write_lora

CHANGED = {"diffusion_net": ("motion_modules", "audio_modules"), "reference_net": ("attn1",), "image_proj": ("proj",)}


def write_random_lora(path: Path, checkpoint: Path, seed: int = 0, size: float = 0.05, rank: int = 2) -> Path:
    """For every matrix and 1x1 kernel in modules with a name in CHANGED. size: of the changes, where 1 is that of a new net's weights."""
    generator, layers = torch.Generator().manual_seed(seed), {}
    for net, parts in CHANGED.items():
        for key, weight in net_source(checkpoint, net).read_weights().items():
            if not key.endswith(".weight") or weight.ndim < 2 or weight[0, 0].numel() > 1 or not any(part in key for part in parts):
                continue
            up, down = (torch.randn(shape, generator=generator) for shape in ((weight.shape[0], rank), (rank, weight.shape[1])))
            layers[f"{net}.{key.removesuffix('.weight')}"] = Factors(up * size / weight.shape[1] ** 0.5, down, rank / 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lora(path, layers)
    return path
