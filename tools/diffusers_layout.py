"""The published folder layout: config.json next to diffusion_pytorch_model.safetensors, as diffusers writes them."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from memo_modules.models.config import DiffusionNetConfig, ReferenceNetConfig

UNET_OPTIONS = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "sample_size": 64,
}


def unet_config(config: ReferenceNetConfig) -> dict:
    """The content of a UNet's config.json."""
    kind = "3D" if isinstance(config, DiffusionNetConfig) else "2D"
    return {
        "_class_name": f"UNet{kind}ConditionModel",
        **UNET_OPTIONS,
        **asdict(config),
        "down_block_types": [f"CrossAttnDownBlock{kind}"] * 3 + [f"DownBlock{kind}"],
        "mid_block_type": f"UNetMidBlock{kind}CrossAttn",
        "up_block_types": [f"UpBlock{kind}"] + [f"CrossAttnUpBlock{kind}"] * 3,
    }


def write_diffusers(folder: Path, config: dict, weights: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: tensor.contiguous() for key, tensor in weights.items()}, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"}
    )
    write_json(folder / "config.json", {"_diffusers_version": "0.31.0", **config})


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
