"""Whether something is what it was, told by a few bytes of it."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files.regular_files import open_regular
from ..types import Audio
from ..words import quoted

_BLOCK = 2**24
"""Values that are read at a time: some hundredths of a second."""

_VALUES = 64
"""Of each tensor of a model: another checkpoint, and a finetuned one, differs in all that it trained."""


def weights_digest(*modules: nn.Module) -> str:
    """SHA-256 of the names, sizes, dtypes and some of the values of the weights of ``modules``, wherever they are."""
    digest = hashlib.sha256()
    for module in modules:
        weights = module.state_dict()
        for name, weight in weights.items():
            digest.update(f"{name} {list(weight.shape)} {weight.dtype}".encode())
        rows = [_some(weight).float() for weight in weights.values()]
        digest.update(_on_cpu(rows).numpy().tobytes())
    return digest.hexdigest()


def copy_fault(copy: Mapping[str, Tensor], original: Mapping[str, Tensor], whole: Callable[[int, int], None] | None = None) -> str | None:
    """Why the weights ``copy`` are not those of ``original`` in another dtype, in words, by names, sizes and some values of each tensor;
    None when they are.

    whole: all values are looked at; it is called several times a second with how many were, and how many there are, and may raise.
    """
    if copy.keys() != original.keys():
        return "it has other tensors"
    done, all_values = 0, sum(tensor.numel() for tensor in original.values())
    for key, tensor in original.items():
        found = copy[key]
        if found.shape != tensor.shape:
            return f"{quoted(key)} is another one"
        for left, right in zip(*(each.reshape(-1).split(_BLOCK) if whole else [_some(each)] for each in (tensor, found)), strict=True):
            if whole:
                whole(done, all_values)
                done += left.numel()
            if not torch.equal(_bits(left.to(right.dtype)), _bits(right)):
                return f"{quoted(key)} is another one"
    return None


def _bits(values: Tensor) -> Tensor:
    """What compares with the same, even where it is no number."""
    return values.contiguous().view(torch.uint8)


def _some(weight: Tensor) -> Tensor:
    return (weight[0] if weight.ndim > 1 else weight).reshape(-1)[:_VALUES]


def _on_cpu(rows: list[Tensor]) -> Tensor:
    """One row after the other, fetched from each device at once: of a net that is streamed some weights are on the GPU."""
    fetched = {}
    for device in {row.device for row in rows}:
        there = [number for number, row in enumerate(rows) if row.device == device]
        joined = torch.cat([rows[number] for number in there]).cpu()
        fetched |= zip(there, joined.split([len(rows[number]) for number in there]), strict=True)
    return torch.cat([fetched[number] for number in range(len(rows))])


def tensor_digest(tensor: Tensor, check_interrupt: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of all values of a tensor, its dtype and shape. ``check_interrupt`` is called several times a second and may raise."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    tensor = tensor.detach()
    for row in [tensor] if tensor.is_contiguous() or not tensor.ndim else tensor:  # a cut sound is not copied as a whole
        for part in row.reshape(-1).split(_BLOCK):
            check_interrupt()
            digest.update(part.cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def audio_digest(audio: Audio, check_interrupt: Callable[[], None] = lambda: None) -> str:
    """Digest of every sample of a sound and its rate; of one that would be computed otherwise in its last bits the next time,
    of what it is computed from."""
    return audio.made_of or f"{audio.sample_rate} {tensor_digest(audio.waveform, check_interrupt)}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def block_values(tensor: Tensor, rows: int = 16, check_interrupt: Callable[[], None] = lambda: None) -> Tensor:
    """What tells a change anywhere in a tensor (n ..): float32 (blocks values) on the CPU, one row for ``rows`` of its rows.

    Each row is weighed in four ways, such that no two of its values weigh the same. Rounding changes a block by a part as
    small as it changes the tensor; other content changes its own block, however many others there are. ``check_interrupt``
    is called several times a second and may raise.
    """
    flat = tensor.detach().reshape(len(tensor), -1)
    places = torch.arange(1, flat.shape[1] + 1, dtype=torch.float64)
    weights = torch.stack([torch.cos(places * prime**0.5) for prime in (2, 3, 5, 7)], dim=1).float()
    values = torch.empty(len(flat), weights.shape[1])
    for start in range(0, len(flat), at_once := max(1, _BLOCK // flat.shape[1])):
        check_interrupt()
        some = slice(start, start + at_once)
        values[some] = flat[some].float().cpu() @ weights
    padding = -len(values) % rows
    return torch.nn.functional.pad(values, (0, 0, 0, padding)).reshape(-1, 4 * rows).contiguous()


def some_values(tensor: Tensor, count: int = 4096) -> Tensor:
    """Up to ``count`` values (n) evenly spread over a tensor."""
    values = tensor.reshape(-1)
    return values[:: max(1, len(values) // count)][:count].clone()
