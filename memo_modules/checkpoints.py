"""Files to modules: weights read without running anything in them, keys strict, every error names file and key."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import CheckpointError
from .models.config import DiffusionNetConfig, ReferenceNetConfig
from .models.diffusion_net import DiffusionNet
from .models.layers import Layers
from .models.projections import AudioProjection, ImageProjection
from .models.reference_net import ReferenceNet

NETS = ("reference_net", "diffusion_net", "image_proj", "audio_proj")
"""The four nets of a MEMO checkpoint, each a folder with config.json and weights."""

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_config(path: Path) -> dict:
    """The JSON object in ``path``. Raises CheckpointError when it is missing or no JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. {_REPAIR}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({error}). {_REPAIR}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(config).__name__}. {_REPAIR}")
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file (mapped, not copied) or of a weights-only pickle, wrappers taken off.

    Raises CheckpointError when the file is missing, truncated or not of that kind; a pickle that would need to run
    code to be read is refused.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. {_REPAIR}") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} cannot be read as model weights ({reason}). {_REPAIR}") from error
    for wrapper in _WRAPPERS:
        if isinstance(weights, dict) and isinstance(weights.get(wrapper), dict):
            weights = weights[wrapper]
            break
    tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)} if isinstance(weights, dict) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name, so it is not a model of this kind. {_REPAIR}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def weights_file(folder: Path) -> Path:
    """The weights in a folder as diffusers writes it: safetensors, or the older pickle where only that is there."""
    safetensors, pickled = (folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin"))
    return pickled if pickled.exists() and not safetensors.exists() else safetensors


def load_net(checkpoint: Path, net: str, layers: Layers) -> nn.Module:
    """One of NETS from a checkpoint folder, its weights in ``layers.dtype`` on the CPU.

    Raises CheckpointError naming the file, and the key or option in it, that does not fit.
    """
    folder = checkpoint / net
    source = weights_file(folder)
    meta = replace(layers, device="meta")
    if net in ("image_proj", "audio_proj"):
        kind = ImageProjection if net == "image_proj" else AudioProjection
        weights = read_weights(source)
        try:
            module = kind(meta, **kind.sizes(weights))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{source} does not hold a {kind.__name__} ({error}). {_REPAIR}") from error
    else:
        config = read_config(folder / "config.json")
        name = str(folder / "config.json")
        if net == "reference_net":
            module = ReferenceNet(ReferenceNetConfig.from_dict(config, name), meta)
        else:
            module = DiffusionNet(DiffusionNetConfig.from_dict(config, name), meta)
        weights = read_weights(source)
    assign_weights(module, weights, source, layers.dtype)
    return module


def check_fit(checkpoint: Path, nets: dict[str, nn.Module]) -> None:
    """Raises CheckpointError when the four NETS of a checkpoint are not made for each other, naming the two that differ."""
    diffusion, reference = nets["diffusion_net"].config, nets["reference_net"].config
    for net, what, found, expected in (
        ("reference_net", "channels", reference.block_out_channels, diffusion.block_out_channels),
        ("reference_net", "layers per block", reference.layers_per_block, diffusion.layers_per_block),
        ("reference_net", "face token width", reference.cross_attention_dim, diffusion.cross_attention_dim),
        ("image_proj", "face token width", nets["image_proj"].d, diffusion.cross_attention_dim),
        ("audio_proj", "audio token width", nets["audio_proj"].d, diffusion.audio_attention_dim),
    ):
        if found != expected:
            raise CheckpointError(f"{checkpoint / net} does not belong to its diffusion_net: {what} {found}, expected {expected}. {_REPAIR}")


def assign_weights(module: nn.Module, weights: dict[str, Tensor], source: Path, dtype: torch.dtype | None = None) -> None:
    """Put ``weights`` into ``module`` (built on the meta device) without a copy, in ``dtype`` where one is given.

    Every key of the module must be there with its shape, and no other. Raises CheckpointError naming the file, the
    first offending key, what was expected and what was found.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in weights]
    foreign = [key for key in weights if key not in expected]
    if missing or foreign:
        parts = [f"{len(keys)} {what}, first {keys[0]!r}" for what, keys in (("missing", missing), ("not of this model", foreign)) if keys]
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {len(expected)} keys expected, {len(weights)} found; {'; '.join(parts)}. {_REPAIR}")
    for key, tensor in weights.items():
        if tensor.shape != expected[key].shape:
            raise CheckpointError(
                f"{source}: {key!r} has shape {list(tensor.shape)}, expected {list(expected[key].shape)} for {type(module).__name__}. "
                "Is config.json the one that belongs to this file?"
            )
    if dtype is not None:
        weights = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in weights.items()}
    module.load_state_dict(weights, strict=True, assign=True)
    module.eval().requires_grad_(False)


_REPAIR = "Fetch this file again and put it in its place (README, model table)."
