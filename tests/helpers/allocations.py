"""Counts the bytes that tensors hold, on any device: on meta, what the full-size nets would take on a GPU."""

import weakref
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """peak: the most bytes held at a time by tensors made while it is entered, those of ``given`` left out."""

    def __init__(self, *given):
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for thing in given for tensor in tensors_in(thing)}
        self.held: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.held and key not in self.given:
            self.held[key] = storage.nbytes()
            self.total += self.held[key]
            weakref.finalize(storage, self._free, key)
            self.peak = max(self.peak, self.total)

    def _free(self, key: int) -> None:
        self.total -= self.held.pop(key)


def tensors_in(thing) -> list[Tensor]:
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, nn.Module):
        return [*thing.parameters(), *thing.buffers()]
    if isinstance(thing, tuple | list):
        return [tensor for item in thing for tensor in tensors_in(item)]
    if is_dataclass(thing):
        return [tensor for field in fields(thing) for tensor in tensors_in(getattr(thing, field.name))]
    return []


def nbytes(thing) -> int:
    return sum(tensor.nbytes for tensor in tensors_in(thing))
