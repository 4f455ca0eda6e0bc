"""What the sampler asks of a VAE, and diffusers' AutoencoderKL in that role."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import CheckpointError
from .models.options import each, either, flag, only, read_options, whole, wholes
from .weights.checkpoints import assign_weights, read_json, read_weights
from .weights.checks import REPAIR, check_numbers, check_shapes
from .words import first_line, quoted

VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"

SCALING_FACTOR = 0.18215
"""Of all VAEs of Stable Diffusion 1: their latents times this are of about unit size."""

MULTIPLE = 8
"""Pixels per latent of a Stable Diffusion 1 VAE; width and height are multiples of it."""

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of the parts of attention in the published file; diffusers has others since."""

_OLD_PART = re.compile(r"(?<=\.attentions\.0\.)\w+")

_LATENTS = 4
"""Channels."""

_LEVELS = 4

_OPTIONS = {
    "_class_name": only("AutoencoderKL"),
    "act_fn": only("silu"),
    "block_out_channels": wholes(1, 8192, _LEVELS, _LEVELS),
    "down_block_types": each("DownEncoderBlock2D", _LEVELS, _LEVELS),
    "force_upcast": flag(),
    "in_channels": only(3),
    "latent_channels": only(_LATENTS),
    "latents_mean": only(None),
    "latents_std": only(None),
    "layers_per_block": whole(1, 2),
    "mid_block_add_attention": only(True),
    "norm_num_groups": whole(1, 8192),
    "out_channels": only(3),
    "sample_size": either(whole(1, 65536), wholes(1, 65536, 2, 2)),  # says nothing of the weights
    "shift_factor": only(None),
    "up_block_types": each("UpDecoderBlock2D", _LEVELS, _LEVELS),
    "use_post_quant_conv": only(True),
    "use_quant_conv": only(True),
}
"""Of the config.json: what ComfyUI's class, which has four levels of one or two blocks, computes as diffusers' does."""

_FEWER_LEVELS = {
    **_OPTIONS,
    "block_out_channels": wholes(1, 8192, 2, _LEVELS),
    "down_block_types": each("DownEncoderBlock2D", 2, _LEVELS),
    "up_block_types": each("UpDecoderBlock2D", 2, _LEVELS),
}
"""The same for training alone, which takes latents of any size."""

_NEEDED = ("block_out_channels", "layers_per_block", "down_block_types", "up_block_types")
"""In whose place diffusers would put those of another VAE."""

_PUBLISHED = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * _LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * _LEVELS,
    "layers_per_block": 2,
    "latent_channels": _LATENTS,
    "norm_num_groups": 32,
}

_MOST_WIDENED = 2**28
"""Numbers in all weights of a VAE that was made wider, three times those of the published one."""


class VideoVAE(Protocol):
    """Pictures to scaled latents and back; the factor between picture and latent is whatever the VAE makes it. The sampler
    hands in all pictures of a clip: how many are computed at once is for the VAE to say, which knows what they take."""

    def encode(self, images: Tensor) -> Tensor:
        """(n 3 H W) in [-1, 1] to the posterior mean times the scaling factor (n c h w)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(n c h w) as ``encode`` gives them to float32 pictures (n 3 H W) in [0, 1]."""
        ...


class DiffusersVAE:
    """VideoVAE on a diffusers AutoencoderKL, in its own dtype and on its own device, ``batch`` pictures at once."""

    def __init__(self, autoencoder, batch: int = 1):
        self.autoencoder, self.batch = autoencoder, batch

    @property
    def factor(self) -> int:
        """Pixels per latent."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

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


def check_autoencoder(place: Path, fewer_levels: bool = False) -> None:
    """Raises CheckpointError when header and config tell that ``place``, see load_autoencoder, is no VAE with the latents
    of Stable Diffusion 1. A single file may also have the names of Stable Diffusion's own code."""
    folder = place.is_dir()
    path = place / VAE_WEIGHTS if folder else place
    shapes = read_weights(path, header_only=True)
    check_numbers(shapes, path)
    latents, found = shapes.get("decoder.conv_in.weight"), autoencoder_scale(place)
    if latents is None:
        raise CheckpointError(f"{place} is not a VAE: 'decoder.conv_in.weight' is missing. Use sd-vae-ft-mse.")
    if latents.ndim != 4 or latents.shape[1] != _LATENTS or found not in (None, SCALING_FACTOR):
        channels = latents.shape[1] if latents.ndim == 4 else list(latents.shape)
        raise CheckpointError(
            f"{place} is the VAE of another model: {channels} latent channels, scaling factor {'unknown' if found is None else quoted(found)}; "
            f"expected {_LATENTS} and {SCALING_FACTOR}, those of Stable Diffusion 1. Use sd-vae-ft-mse."
        )
    config = autoencoder_config(place, fewer_levels)
    if not folder and _OWN_NAME in shapes:
        expected = {own_name(key): (*shape, 1, 1) if len(shape) == 2 else shape for key, shape in autoencoder_shapes(config).items()}
        used = {key: tensor for key, tensor in shapes.items() if not key.startswith(_TRAINING)}
        check_shapes(used, expected, path, "the VAE of Stable Diffusion 1")
    else:
        check_shapes(_todays_names(shapes, path), autoencoder_shapes(config), path, "AutoencoderKL")
    check_numbers(shapes, path)


def autoencoder_scale(place: Path) -> object:
    """The scaling factor that a folder's config.json states; None for a single file, and where it is left out."""
    return read_json(place / "config.json").get("scaling_factor") if place.is_dir() else None


def autoencoder_config(place: Path, fewer_levels: bool = False) -> dict[str, Any]:
    """What the config.json of a VAE says, all of it in range; of a single file the sizes of sd-vae-ft-mse. fewer_levels: than the four
    of ComfyUI's class are fine. Raises CheckpointError naming the option that is not supported."""
    if not place.is_dir():
        return _PUBLISHED
    source = place / "config.json"
    config = read_options(read_json(source), _FEWER_LEVELS if fewer_levels else _OPTIONS, str(source))
    for name in _NEEDED:
        if name not in config:
            raise CheckpointError(f"{source}: {name}: expected {_OPTIONS[name].expected}, there is none. {REPAIR}")
    widths, groups = config["block_out_channels"], config.setdefault("norm_num_groups", 32)
    for width in widths:
        for name, number in (("norm_num_groups", groups), ("its first", widths[0])):
            if width % number:
                raise CheckpointError(f"{source}: block_out_channels {list(widths)} is not divisible by {name} {number}.")
    factor, wide = _widened_config(config)
    numbers = sum(map(math.prod, autoencoder_shapes(wide).values()))
    if factor > 1 and numbers > _MOST_WIDENED:
        raise CheckpointError(
            f"{source}: block_out_channels: expected multiples of 32, or a VAE of at most {_MOST_WIDENED:,} numbers when its widths are made "
            f"such, got {list(widths)} and {numbers:,} numbers. Use sd-vae-ft-mse."
        )
    return config


def autoencoder_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of the weights of an AutoencoderKL, by the names that diffusers has for them today."""
    widths, layers = config["block_out_channels"], config["layers_per_block"]
    first, *_, last = widths
    shapes = _convolution("quant_conv", 2 * _LATENTS, 2 * _LATENTS, 1) | _convolution("post_quant_conv", _LATENTS, _LATENTS, 1)
    shapes |= _convolution("encoder.conv_in", 3, first) | _convolution("decoder.conv_in", _LATENTS, last)
    for part, blocks, sampler, levels, depth in (
        ("encoder", "down_blocks", "downsamplers", list(widths), layers),
        ("decoder", "up_blocks", "upsamplers", list(reversed(widths)), layers + 1),
    ):
        c_in = levels[0]
        for level, c in enumerate(levels):
            block = f"{part}.{blocks}.{level}"
            for i in range(depth):
                shapes |= _residual(f"{block}.resnets.{i}", c if i else c_in, c)
            if level < len(levels) - 1:
                shapes |= _convolution(f"{block}.{sampler}.0.conv", c, c)
            c_in = c
        middle = f"{part}.mid_block"
        shapes |= _residual(f"{middle}.resnets.0", last, last) | _residual(f"{middle}.resnets.1", last, last)
        shapes |= _affine(f"{middle}.attentions.0.group_norm", last)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes |= _affine(f"{middle}.attentions.0.{name}", last, last)
    shapes |= _affine("encoder.conv_norm_out", last) | _convolution("encoder.conv_out", last, 2 * _LATENTS)
    return shapes | _affine("decoder.conv_norm_out", first) | _convolution("decoder.conv_out", first, 3)


def _residual(key: str, c_in: int, c: int) -> dict[str, tuple[int, ...]]:
    shapes = _affine(f"{key}.norm1", c_in) | _convolution(f"{key}.conv1", c_in, c)
    shapes |= _affine(f"{key}.norm2", c) | _convolution(f"{key}.conv2", c, c)
    return shapes if c_in == c else shapes | _convolution(f"{key}.conv_shortcut", c_in, c, 1)


def _convolution(key: str, c_in: int, c: int, kernel: int = 3) -> dict[str, tuple[int, ...]]:
    return _affine(key, c, c_in, kernel, kernel)


def _affine(key: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}


_OWN_NAME = "decoder.mid.block_1.norm1.weight"
"""Of Stable Diffusion's own code, for which diffusers has another."""

_TRAINING = ("loss.", "model_ema.")
"""How names begin of what only the training of a VAE uses, and ComfyUI leaves out."""

_OWN_NAMES = (
    (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"up_blocks\.(\d)\.resnets\.", lambda match: f"up.{_LEVELS - 1 - int(match[1])}.block."),
    (r"up_blocks\.(\d)\.upsamplers\.0\.", lambda match: f"up.{_LEVELS - 1 - int(match[1])}.upsample."),
    (r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
)


def own_name(key: str) -> str:
    """That of Stable Diffusion's own code for a weight of diffusers' class."""
    for pattern, name in _OWN_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _todays_names(weights: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``weights`` by the names that diffusers has for them today. Raises CheckpointError when they have those of another
    code, or one of them two names."""
    if _OWN_NAME in weights:
        raise CheckpointError(
            f"{path} has the names of Stable Diffusion's own code, which only ComfyUI's VAE loader reads; expected those of diffusers. "
            "Use sd-vae-ft-mse.safetensors."
        )
    names = {key: _OLD_PART.sub(lambda name: _OLD_NAMES.get(name[0], name[0]), key) for key in weights}
    twice = [key for key, name in names.items() if key != name and name in weights]
    if twice:
        raise CheckpointError(f"{path} has a weight twice, as {quoted(twice[0])} and by the name that diffusers has for it today. {REPAIR}")
    return {name: weights[key] for key, name in names.items()}


def autoencoder_weights(place: Path) -> dict[str, Tensor]:
    """Those of the VAE in ``place``, see load_autoencoder, under the names that diffusers has for them today."""
    path = place / VAE_WEIGHTS if place.is_dir() else place
    weights = read_weights(path)
    check_numbers(weights, path)
    return _todays_names(weights, path)


def load_autoencoder(place: Path, dtype: torch.dtype = torch.float32, fewer_levels: bool = False):
    """diffusers' AutoencoderKL from a folder as diffusers writes it, or from a single file of sd-vae-ft-mse, on the CPU.
    fewer_levels: see autoencoder_config. Raises CheckpointError when there is no such VAE."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    check_autoencoder(place, fewer_levels)
    weights = autoencoder_weights(place)
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in autoencoder_config(place, fewer_levels).items()}
    try:
        with torch.device("meta"):
            vae: Any = AutoencoderKL.from_config(config)
    except Exception as error:  # diffusers' errors have no common base
        raise CheckpointError(f"{place}: its config.json does not describe a VAE that can be built ({first_line(error)}). {REPAIR}") from error
    assign_weights(vae, weights, place)
    return nn.Module.to(vae, dtype)  # its own `to` warns of nothing


def load_widened(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of the VAE in a folder and its config, see ``widened``. Raises CheckpointError when there is no such VAE."""
    check_autoencoder(place)
    return widened(autoencoder_weights(place), autoencoder_config(place))


def widened(weights: dict[str, Tensor], config: dict, multiple: int = 32) -> tuple[dict[str, Tensor], dict]:
    """An AutoencoderKL, see autoencoder_weights, and its config at widths that are multiples of ``multiple``.

    It computes the same: the added channels and the added groups of its norms are zero throughout. For code that can
    build no narrower one.
    """
    factor, config = _widened_config(config, multiple)
    if factor == 1:
        return weights, config
    padded = {}
    for key, shape in autoencoder_shapes(config).items():
        missing = [target - size for size, target in zip(weights[key].shape, shape, strict=True)]
        padded[key] = F.pad(weights[key], [side for size in reversed(missing) for side in (0, size)])
        if ".to_q." in key:  # attention divides by the root of its width
            padded[key] *= factor**0.5
    return padded, config


def _widened_config(config: Mapping[str, Any], multiple: int = 32) -> tuple[int, dict[str, Any]]:
    """How many times wider a VAE becomes, and its config then."""
    factor = multiple // math.gcd(multiple, *config["block_out_channels"])
    widths = tuple(factor * c for c in config["block_out_channels"])
    return factor, {**config, "block_out_channels": widths, "norm_num_groups": factor * config.get("norm_num_groups", 32)}
