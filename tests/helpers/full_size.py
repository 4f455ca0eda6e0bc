"""The nets at full size: what the published files hold, and the sizes of a clip at 512 x 512."""

import json
from pathlib import Path

import torch

FRAMES, LATENT = 16, (64, 64)
GIB = 2**30


def manifest(component: str) -> dict:
    """keys: shapes by name. constructor_kwargs: what the net is built with. n_params."""
    return json.loads((Path(__file__).resolve().parents[1] / "manifests" / f"manifest_{component}.json").read_text())


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=dtype)
