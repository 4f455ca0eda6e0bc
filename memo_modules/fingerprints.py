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
        digest.update(torch.cat(rows).cpu().numpy().tobytes())
    return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of all values of a tensor on the CPU, its dtype and shape."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def some_values(tensor: Tensor, count: int = 4096) -> Tensor:
    """Up to ``count`` values (n) evenly spread over a tensor."""
    values = tensor.reshape(-1)
    return values[:: max(1, len(values) // count)][:count].clone()
