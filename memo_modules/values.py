"""What values of other makers are checked with: each raises InputError that names the input, and says what was expected and what came."""

import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .words import quoted

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What torch computes in everywhere; its types of 8 bits know hardly an operation."""

_MOST_REPEATED = 2**33
"""Values that a tensor may stand for which holds fewer of them (``expand``): looking at them takes some seconds."""

_LOOKED_AT = 1 << 20
"""Values that are looked at at a time, which may copy them: a millisecond."""


def tensor_fault(tensor: Tensor) -> str | None:
    """What is wrong with a tensor of any shape that holds no values in the common order."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized:
        return f"expected a plain tensor, got {_kind(tensor)}. Look at the node that made it."
    if tensor.device.type == "meta":
        return "expected a tensor with values, got one without any (on the device meta). Look at the node that made it."
    if tensor.numel() > _MOST_REPEATED and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"expected a tensor that holds its values, got one of shape {list(tensor.shape)} that repeats a few of them."
    return None


def _kind(tensor: Tensor) -> str:
    return "a nested one" if tensor.is_nested else f"a {'quantized' if tensor.is_quantized else str(tensor.layout).removeprefix('torch.')} one"


def parts(tensor: Tensor, check_interrupt: Callable[[], None], dim: int = 0) -> Iterator[Tensor]:
    """A tensor of one value and more, about a million of them at a time."""
    for part in tensor.detach().split(max(1, _LOOKED_AT * tensor.shape[dim] // tensor.numel()), dim=dim):
        check_interrupt()
        yield part


def check_tensor(
    value: Any, name: str, shape: tuple[int | str, ...], dtype: torch.dtype = torch.float32, check_interrupt: Callable[[], None] = lambda: None
) -> None:
    """``shape``: numbers, and names of sides that may have any length but 0. The values must be finite.

    ``check_interrupt`` is called several times a second and may raise.
    """
    expected = f"{_short(dtype)} of shape [{', '.join(map(str, shape))}]"
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: expected {expected}, got {described(value)}.")
    if fault := tensor_fault(value):
        raise InputError(f"{name}: {fault}")
    sides = zip(shape, value.shape, strict=False)
    fits = value.ndim == len(shape) and all(side == length if isinstance(side, int) else length for side, length in sides)
    if value.dtype != dtype or not fits:
        raise InputError(f"{name}: expected {expected}, got {_short(value.dtype)} of shape {list(value.shape)}.")
    if not all(_finite(part) for part in parts(value, check_interrupt)):
        raise InputError(f"{name}: some values are NaN or infinite. Look at the node that made it.")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _finite(part: Tensor) -> bool:
    return all(map(math.isfinite, torch.stack(torch.aminmax(part)).tolist()))


def is_number(value: Any, kind: type) -> bool:
    """Of the ``numbers`` class ``kind``, which takes numpy's, too; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def check_whole(value: Any, name: str, lowest: int, highest: int) -> None:
    if not is_number(value, Integral) or not lowest <= value <= highest:
        raise InputError(f"{name}: expected a whole number from {lowest} to {highest}, got {described(value)}.")


def check_number(value: Any, name: str, lowest: float, highest: float) -> None:
    if not is_number(value, Real) or not lowest <= value <= highest:  # which NaN is not
        raise InputError(f"{name}: expected a number from {lowest} to {highest}, got {described(value)}.")


def check_tuple(value: Any, name: str, length: int | None = None) -> None:
    """``length`` of None: one item or more."""
    if not isinstance(value, tuple) or len(value) != (length or len(value)) or not value:
        items = "one item or more" if length is None else f"{length} items"
        raise InputError(f"{name}: expected a tuple of {items}, got {f'{len(value)}' if isinstance(value, tuple) else described(value)}.")


def described(value: Any) -> str:
    """A value, in an error: short ones as they are, of others the kind."""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return "a nested tensor" if value.is_nested else f"a tensor of shape {list(value.shape)}"
    if isinstance(value, str | int | float):
        return quoted(value)
    return type(value).__name__
