"""Pickles of torch, read without what they ask for: nothing that one names is imported or called."""

import pickle
import types
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from .checkpoints import file_fault, is_zip, raise_fault, unwrapped
from .errors import CheckpointError


def tensors_of_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a pickle, wrappers taken off, whatever else is in it. Raises CheckpointError when there are none."""
    raise_fault(file_fault(path))
    try:
        held = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_inert_pickle, mmap=is_zip(path))
    except Exception as error:  # a damaged pickle fails anywhere
        raise CheckpointError(f"{path} cannot be read as a torch pickle ({str(error).splitlines()[0] if str(error) else error!r}).") from error
    return unwrapped(held, path)


_HARMLESS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


class _Inert:
    """Takes the place of whatever a pickle names: is made of anything, holds nothing, does nothing."""

    def __new__(cls, *_, **__):
        return object.__new__(cls)

    def _ignore(self, *_, **__) -> "_Inert":
        return _Inert()

    __init__ = __setstate__ = __setitem__ = lambda self, *_, **__: None
    __call__ = __getattr__ = append = extend = add = update = _ignore


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        return _Inert


_inert_pickle = types.ModuleType("inert_pickle")
_inert_pickle.Unpickler = _InertUnpickler
_inert_pickle.UnpicklingError = pickle.UnpicklingError
_inert_pickle.load = lambda file, **options: _InertUnpickler(file, **options).load()
