"""What is wrong with model files and with weights, told before anything is computed with them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files.regular_files import read_regular
from ..words import quoted

PICKLES = (".bin", ".pt", ".pth", ".ckpt")

REPAIR = "Fetch this file again and put it where the README's model table says."
"""What to do, at the end of errors about a model file."""

_SMALLEST_PICKLE = 2**14

_ODD_FLOATS = {getattr(torch, name, None) for name in ("float8_e8m0fnu", "float4_e2m1fn_x2")}
"""Scales, and pairs of numbers."""


def file_fault(path: Path) -> str | None:
    """What is wrong with a model file that its first bytes tell, in a sentence; None when nothing is."""
    try:
        start = read_regular(path, 64).lstrip().lower()
    except FileNotFoundError:
        return f"{path} is missing. {REPAIR}"
    except IsADirectoryError:
        return f"{path} is a folder, expected a file. {REPAIR}"
    except PermissionError:
        return permission_fault(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror}). {REPAIR}"
    if not start:
        return f"{path} is empty. {REPAIR}"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"{path} is a web page, not a model: the server answered the download with an error or login page. {REPAIR}"
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer to the file: run `git lfs pull` in its folder."
    return None


def permission_fault(path: Path | str) -> str:
    """What is said of a file or a folder that is there, but closed to this user."""
    return f"{path} cannot be read: permission denied. Give the user running ComfyUI read access."


def pickle_fault(path: Path) -> str | None:
    """What is wrong with a pickle that its first bytes and its size tell, which is all that is looked at for a list."""
    fault = file_fault(path)
    if fault is None and (size := path.stat().st_size) < _SMALLEST_PICKLE:
        return f"{path} is too small for a model ({size} bytes). {REPAIR}"
    return fault


def raise_fault(fault: str | None) -> None:
    """Raises CheckpointError with a fault that one of the functions above found."""
    if fault:
        raise CheckpointError(fault)


def check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], source: Path, model: str) -> None:
    """Raises CheckpointError naming the file, the first offending key, what was expected and what was found, when not
    exactly the keys of ``expected`` are there, each with its shape. model: what they are of."""
    missing = [key for key in expected if key not in weights]
    foreign = [key for key in weights if key not in expected]
    if missing or foreign:
        parts = [f"{len(keys)} {what}, first {quoted(keys[0])}" for what, keys in (("missing", missing), ("not of this model", foreign)) if keys]
        raise CheckpointError(f"{source} does not fit {model}: {len(expected)} keys expected, {len(weights)} found; {'; '.join(parts)}. {REPAIR}")
    for key, tensor in weights.items():
        if tuple(tensor.shape) != tuple(expected[key]):
            raise CheckpointError(
                f"{source}: {quoted(key)} has shape {list(tensor.shape)}, expected {list(expected[key])} for {model}. "
                "Is config.json the one that belongs to this file?"
            )


def check_numbers(weights: dict[str, Tensor], source: Path, expected: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """Raises CheckpointError for the first of ``weights`` that is not of floating-point numbers, or not of whole ones where
    ``expected`` has those."""
    for key, tensor in weights.items():
        counts = key in expected and not expected[key].is_floating_point()
        if tensor.is_complex() or tensor.is_floating_point() == counts or tensor.dtype in _ODD_FLOATS:
            kind, wanted = str(tensor.dtype).removeprefix("torch."), "whole numbers" if counts else "float16, bfloat16, float32, float64 or float8"
            raise CheckpointError(
                f"{source}: {quoted(key)} is of {kind}, expected {wanted}. Use the weights as they were published, not a quantised form of them."
            )


def not_finite(module: nn.Module) -> Iterator[str]:
    """The keys of weights of ``module`` that hold NaN or infinity, wherever they are."""
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            yield key
