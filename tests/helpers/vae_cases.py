"""VAEs that cannot be, and what is said of each, whoever loads it."""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"
UNSUPPORTED = ", which is not supported."


def config(**values) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file({key: tensor.contiguous() for key, tensor in held.items()}, folder / WEIGHTS)

    return spoil


def reshaped(key: str, *shape: int) -> Callable[[Path], None]:
    return weights(lambda held: held.update({key: torch.randn(shape)}))


def all_widths(width: int) -> Callable[[Path], None]:
    """A VAE as it should be, of one width throughout."""

    def spoil(folder: Path) -> None:
        from diffusers import AutoencoderKL

        config(block_out_channels=[width] * 4, norm_num_groups=1, layers_per_block=1)(folder)
        built = AutoencoderKL.from_config(json.loads((folder / "config.json").read_text()))
        save_file(built.half().state_dict(), folder / WEIGHTS)

    return spoil


SPOILT: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "endless layers": (config(layers_per_block=10**9), f"layers_per_block: expected a whole number from 1 to 2, got {10**9}{UNSUPPORTED}"),
    "half a layer": (config(layers_per_block=1.5), f"layers_per_block: expected a whole number from 1 to 2, got 1.5{UNSUPPORTED}"),
    "no widths": (config(block_out_channels=None), "block_out_channels: expected 4 whole numbers from 1 to 8192, there is none."),
    "three widths": (config(block_out_channels=[8] * 3), "block_out_channels: expected 4 whole numbers from 1 to 8192, got [8, 8, 8]"),
    "a huge width": (config(block_out_channels=[8, 16, 24, 2**40]), f"expected 4 whole numbers from 1 to 8192, got [8, 16, 24, {2**40}]"),
    "widths in words": (config(block_out_channels="8888"), "expected 4 whole numbers from 1 to 8192, got '8888'"),
    "widths of no multiple": (config(block_out_channels=[8, 12, 24, 24]), "block_out_channels [8, 12, 24, 24] is not divisible by its first 8."),
    "groups that leave a rest": (config(norm_num_groups=3), "block_out_channels [8, 16, 24, 24] is not divisible by norm_num_groups 3."),
    "no groups": (config(norm_num_groups=0), f"norm_num_groups: expected a whole number from 1 to 8192, got 0{UNSUPPORTED}"),
    "unknown blocks": (
        config(down_block_types=["code()"] * 4),
        f"down_block_types: expected 4 times 'DownEncoderBlock2D', got ['code()', 'code()', 'code()', 'code()']{UNSUPPORTED}",
    ),
    "other blocks": (
        config(up_block_types=["AttnUpDecoderBlock2D"] * 4),
        "up_block_types: expected 4 times 'UpDecoderBlock2D', got ['AttnUpDecoderBlock2D', ",
    ),
    "fewer blocks": (config(up_block_types=["UpDecoderBlock2D"]), "up_block_types: expected 4 times 'UpDecoderBlock2D'"),
    "no blocks": (config(down_block_types=None), "down_block_types: expected 4 times 'DownEncoderBlock2D', there is none."),
    "another activation": (config(act_fn="mish"), f"act_fn: expected 'silu', got 'mish'{UNSUPPORTED}"),
    "an activation of code": (config(act_fn="__import__('os')"), "act_fn: expected 'silu', got"),
    "two million channels": (config(in_channels=2_000_000), f"in_channels: expected 3, got 2000000{UNSUPPORTED}"),
    "pictures of terabytes": (config(out_channels=2**40), f"out_channels: expected 3, got {2**40}{UNSUPPORTED}"),
    "other latents by config": (config(latent_channels=16), f"latent_channels: expected 4, got 16{UNSUPPORTED}"),
    "no attention": (config(mid_block_add_attention=False), f"mid_block_add_attention: expected True, got False{UNSUPPORTED}"),
    "no last convolution": (config(use_quant_conv=False), f"use_quant_conv: expected True, got False{UNSUPPORTED}"),
    "a shift": (config(shift_factor=0.1), f"shift_factor: expected null, got 0.1{UNSUPPORTED}"),
    "a mean": (config(latents_mean=[1, 2, 3, 4]), f"latents_mean: expected null, got [1, 2, 3, 4]{UNSUPPORTED}"),
    "a size in words": (config(sample_size="x"), "sample_size: expected a whole number from 1 to 65536"),
    "another class": (config(_class_name="AutoencoderTiny"), f"_class_name: expected 'AutoencoderKL', got 'AutoencoderTiny'{UNSUPPORTED}"),
    "another scale": (
        config(scaling_factor=0.13025),
        "is the VAE of another model: 4 latent channels, scaling factor 0.13025; expected 4 and 0.18215, those of Stable Diffusion 1.",
    ),
    "a scale that is no number": (config(scaling_factor=float("nan")), "is the VAE of another model: 4 latent channels, scaling factor nan;"),
    "a scale in a list": (config(scaling_factor=[0.18215] * 999), "is the VAE of another model: 4 latent channels, scaling factor [0.18215, "),
    "wider by config": (config(block_out_channels=[16, 32, 48, 48]), "'decoder.conv_in.bias' has shape [24], expected [48]"),
    "fewer layers by config": (config(layers_per_block=1), "does not fit AutoencoderKL: 184 keys expected, 248 found; 64 not of this model"),
    "a missing weight": (
        weights(lambda held: held.pop("encoder.conv_in.weight")),
        "does not fit AutoencoderKL: 248 keys expected, 247 found; 1 missing, first 'encoder.conv_in.weight'.",
    ),
    "a foreign weight": (
        weights(lambda held: held.update(evil=torch.zeros(1))),
        "does not fit AutoencoderKL: 248 keys expected, 249 found; 1 not of this model, first 'evil'.",
    ),
    "a weight twice": (
        weights(lambda held: held.update({"decoder.mid_block.attentions.0.to_q.weight": torch.zeros(24, 24)})),
        "has a weight twice, as 'decoder.mid_block.attentions.0.query.weight' and by the name that diffusers has for it today.",
    ),
    "a larger weight": (reshaped("encoder.conv_in.weight", 500, 3, 3, 3), "'encoder.conv_in.weight' has shape [500, 3, 3, 3], expected [8, 3, 3, 3]"),
    "a smaller weight": (reshaped("encoder.conv_in.weight", 1, 3, 3, 3), "'encoder.conv_in.weight' has shape [1, 3, 3, 3], expected [8, 3, 3, 3]"),
    "a weight of other sides": (reshaped("encoder.conv_in.bias", 4, 2), "'encoder.conv_in.bias' has shape [4, 2], expected [8]"),
    "a kernel of another size": (reshaped("decoder.conv_out.weight", 3, 8, 1, 1), "has shape [3, 8, 1, 1], expected [3, 8, 3, 3]"),
    "a number alone": (reshaped("quant_conv.weight"), "'quant_conv.weight' has shape [], expected [8, 8, 1, 1]"),
    "other latents": (
        weights(lambda held: held.update({"decoder.conv_in.weight": held["decoder.conv_in.weight"].repeat(1, 4, 1, 1)})),
        "is the VAE of another model: 16 latent channels, scaling factor unknown; expected 4 and 0.18215",
    ),
    "latents of other sides": (reshaped("decoder.conv_in.weight", 24, 4), "is the VAE of another model: [24, 4] latent channels"),
    "no VAE": (weights(lambda held: held.pop("decoder.conv_in.weight")), "is not a VAE: 'decoder.conv_in.weight' is missing."),
    "names of another code": (
        weights(lambda held: held.update({"decoder.mid.block_1.norm1.weight": torch.zeros(8)})),
        "has the names of Stable Diffusion's own code, which only ComfyUI's VAE loader reads; expected those of diffusers.",
    ),
    "a width that grows a thousandfold": (
        all_widths(65),
        "block_out_channels: expected multiples of 32, or a VAE of at most 268,435,456 numbers when its widths are made such, got [65, 65, 65, 65]",
    ),
    "whole numbers": (
        weights(lambda held: held.update({key: tensor.to(torch.int8) for key, tensor in held.items()})),
        "is of int8, expected float16, bfloat16, float32, float64 or float8.",
    ),
    "one weight of truths": (
        weights(lambda held: held.update({"quant_conv.bias": torch.zeros(8, dtype=torch.bool)})),
        "'quant_conv.bias' is of bool, expected float16",
    ),
    "complex numbers": (
        weights(lambda held: held.update({"quant_conv.bias": torch.zeros(8, dtype=torch.complex64)})),
        "'quant_conv.bias' is of complex64, expected float16",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is empty"),
    "a list for a config": (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object, got list."),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json is missing."),
}


def write_blank(path: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """Weights of half floats, all 0, which take no room on the disk."""
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path
