"""Whether something is what it was, told by a few bytes of it."""

import hashlib

import torch
from torch import Tensor, nn

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
        fetched |= zip(there, joined.split([len(rows[number]) for number in there]))
    return torch.cat([fetched[number] for number in range(len(rows))])


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of all values of a tensor, its dtype and shape."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def some_values(tensor: Tensor, count: int = 4096) -> Tensor:
    """Up to ``count`` values (n) evenly spread over a tensor."""
    values = tensor.reshape(-1)
    return values[:: max(1, len(values) // count)][:count].clone()
