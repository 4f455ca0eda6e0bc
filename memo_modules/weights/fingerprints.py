"""Whether something is what it was, told by a few bytes of it."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files.regular_files import open_regular
from ..types import Audio

_VALUES = 64
"""Of each tensor of a model: another checkpoint, and a finetuned one, differs in all that it trained."""


def weights_digest(*modules: nn.Module) -> str:
    """SHA-256 of the names, sizes, dtypes and some of the values of the weights of ``modules``, wherever they are."""
    digest = hashlib.sha256()
    for module in modules:
        weights = module.state_dict()
        for name, weight in weights.items():
            digest.update(f"{name} {list(weight.shape)} {weight.dtype}".encode())
        rows = [(weight[0] if weight.ndim > 1 else weight).reshape(-1)[:_VALUES].float() for weight in weights.values()]
        digest.update(_on_cpu(rows).numpy().tobytes())
    return digest.hexdigest()


def _on_cpu(rows: list[Tensor]) -> Tensor:
    """One row after the other, fetched from each device at once: of a net that is streamed some weights are on the card."""
    fetched = {}
    for device in {row.device for row in rows}:
        there = [number for number, row in enumerate(rows) if row.device == device]
        joined = torch.cat([rows[number] for number in there]).cpu()
        fetched |= zip(there, joined.split([len(rows[number]) for number in there]), strict=True)
    return torch.cat([fetched[number] for number in range(len(rows))])


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of all values of a tensor, its dtype and shape."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def audio_digest(audio: Audio) -> str:
    """Digest of every sample of a sound and its rate; of one that would be computed otherwise in its last bits the next time,
    of what it is computed from."""
    return audio.made_of or f"{audio.sample_rate} {tensor_digest(audio.waveform)}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def block_values(tensor: Tensor, rows: int = 16) -> Tensor:
    """What tells a change anywhere in a tensor (n ..): float32 (blocks values) on the CPU, one row for ``rows`` of its rows.

    Each row is weighed in four ways, such that no two of its values weigh the same. Rounding changes a block by a part as
    small as it changes the tensor; other content changes its own block, however many others there are.
    """
    flat = tensor.reshape(len(tensor), -1).float()
    places = torch.arange(1, flat.shape[1] + 1, dtype=torch.float64)
    weights = torch.stack([torch.cos(places * prime**0.5) for prime in (2, 3, 5, 7)], dim=1)
    values = flat.cpu() @ weights.float()
    padding = -len(values) % rows
    return torch.nn.functional.pad(values, (0, 0, 0, padding)).reshape(-1, 4 * rows).contiguous()


def some_values(tensor: Tensor, count: int = 4096) -> Tensor:
    """Up to ``count`` values (n) evenly spread over a tensor."""
    values = tensor.reshape(-1)
    return values[:: max(1, len(values) // count)][:count].clone()
