"""The nets of the benchmark, with random weights at three sizes, and random inputs for them.

Speed does not depend on the weights, as long as activations stay finite and of ordinary size.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from memo_modules.audio.emotion import constant_emotion
from memo_modules.models.config import DiffusionNetConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.projections import AudioProjection, ImageProjection
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.types import AudioFeatures, EmotionTrack, Face
from memo_modules.weights.checkpoints import assign_weights

MANIFESTS = Path(__file__).resolve().parents[2] / "tests" / "manifests"
PICTURE = {"full": 512, "width": 64, "tiny": 96}
"""Pixels per side: the published nets at the published size, the same at a small picture, and small nets."""

CLIP_FRAMES = 16
HAPPY = constant_emotion(3)

_TINY_UNET = {"block_out_channels": [64] * 4, "layers_per_block": 1, "cross_attention_dim": 64}
_TINY = {
    "reference_net": _TINY_UNET,
    "diffusion_net": {**_TINY_UNET, "audio_attention_dim": 64},
    "image_proj": {"cross_attention_dim": 64},
    "audio_proj": {"blocks": 2, "channels": 64, "intermediate_dim": 64, "output_dim": 64},
    "vae": {"block_out_channels": [16, 32, 48, 48], "norm_num_groups": 16},
}
_POOL = 2**22 - 3  # a prime, so that no row of a matrix repeats another


def options(component: str, size: str) -> dict:
    """Constructor values of one of the four nets or of the VAE, under the published names."""
    manifest = json.loads((MANIFESTS / f"manifest_{component}.json").read_text(encoding="utf-8"))
    return manifest["constructor_kwargs"] | (_TINY[component] if size == "tiny" else {})


def build(component: str, size: str, layers: Layers) -> nn.Module:
    """One of the four nets, or the VAE (diffusers' AutoencoderKL, on the device of ``layers``)."""
    values = options(component, size)
    if component == "reference_net":
        return ReferenceNet(ReferenceNetConfig.from_dict(values, component), layers)
    if component == "diffusion_net":
        return DiffusionNet(DiffusionNetConfig.from_dict(values, component), layers)
    if component == "image_proj":
        return ImageProjection(layers, values["clip_embeddings_dim"], values["clip_extra_context_tokens"], values["cross_attention_dim"])
    if component == "audio_proj":
        d_in = values["seq_len"] * values["blocks"] * values["channels"]
        return AudioProjection(layers, d_in, values["intermediate_dim"], values["context_tokens"], values["output_dim"])
    from diffusers import AutoencoderKL

    with torch.device(layers.device):
        return AutoencoderKL(**values)


def random_net(component: str, size: str, layers: Layers, seed: int = 0) -> nn.Module:
    """A net ready for inference, in the memory that ``layers`` names, with weights that ``seed`` decides; the
    projections are float32 whatever it names, as in the pack."""
    dtype = torch.float32 if component in ("image_proj", "audio_proj") else layers.dtype
    module = build(component, size, replace(layers, dtype=dtype, device="meta"))
    weights = random_weights(module.state_dict(), seed, layers.device, dtype)
    assign_weights(module, weights, Path(f"random {component}"))
    return module


def random_weights(like: dict[str, Tensor], seed: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights by key and shape that keep a signal's size: matrices of std 1/√fan_in, norms near 1, small biases, real
    position tables. Each is a stretch of one pool of normal numbers: drawing 2.5e9 of them would take a minute."""
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(seed)).to(device)
    pool = torch.cat([pool, pool])
    weights, first = {}, 0
    for key, tensor in like.items():
        if key.endswith("pos_encoder.pe"):
            weights[key] = sinusoids(*tensor.shape[1:]).to(device, dtype)
            continue
        std = 0.05 if tensor.ndim == 1 else 1.0 if key.endswith("embedding_table.weight") else 1 / math.sqrt(tensor[0].numel())
        values = torch.empty(tensor.numel(), device=device, dtype=dtype)
        for part in values.split(_POOL):
            torch.mul(pool[first : first + len(part)], std, out=part)
        if tensor.ndim == 1 and key.endswith(".weight"):
            values += 1
        weights[key] = values.view(tensor.shape)
        first = (first + len(values)) % _POOL
    return weights


def sinusoids(length: int, d: int) -> Tensor:
    """(1 length d): sines in even channels, cosines in odd ones."""
    angles = torch.arange(length)[:, None] * 10000 ** (-torch.arange(0, d, 2) / d)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).reshape(1, length, d)


@dataclass(frozen=True)
class Inputs:
    """portrait (1 3 H W) in [-1, 1]; audio of whole clips; one emotion throughout."""

    portrait: Tensor
    face: Face
    audio: AudioFeatures
    emotion: EmotionTrack


def latent_side(size: str) -> int:
    return PICTURE[size] // 2 ** (len(options("vae", size)["block_out_channels"]) - 1)


def random_inputs(size: str, clips: int, seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    audio, side = options("audio_proj", size), PICTURE[size]
    frames = clips * CLIP_FRAMES
    portrait = torch.rand(1, 3, side, side, generator=generator) * 2 - 1
    embedding = torch.randn(1, options("image_proj", size)["clip_embeddings_dim"], generator=generator)
    states = torch.randn(frames, audio["blocks"], audio["channels"], generator=generator)
    return Inputs(portrait, Face(embedding, None, 1.0), AudioFeatures(states, Fraction(30), frames, CLIP_FRAMES), HAPPY)


def seeded_noise(size: str, dtype: torch.dtype, seed: int = 2) -> Callable[[int], Tensor]:
    """Noise of each clip (f c h w) drawn in ``dtype``, channels before frames: the numbers that the reference
    implementation draws with the same seed. Clips are asked for in order."""
    generator = torch.Generator().manual_seed(seed)
    side = latent_side(size)
    channels = options("diffusion_net", size)["in_channels"]

    def draw(clip: int) -> Tensor:
        return torch.randn(1, channels, CLIP_FRAMES, side, side, generator=generator, dtype=dtype)[0].transpose(0, 1).float()

    return draw
