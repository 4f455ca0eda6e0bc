"""A device `card:0` that computes on the CPU and is as strict as a GPU: a tensor of its own and one of the CPU never meet in
an operation, numpy reads none, and indices alone may come from outside. Importing this makes it known to torch.
"""

from collections.abc import Callable

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("card")
CARD = torch.device("card", 0)

_MIXED = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations that take tensors of several devices."""


class _OnCard(torch.Tensor):
    """``held``: the tensor that it stands for."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        options = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": CARD}
        tensor = torch.Tensor._make_wrapper_subclass(cls, held.size(), **options)
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, *args, **(kwargs or {}))

    def __getitem__(self, index):
        return super().__getitem__(torch.as_tensor(index) if isinstance(index, list) else index)

    def __repr__(self):
        return f"{self.held} on {CARD}"

    def tolist(self):
        return self.held.tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert card:0 device type tensor to numpy")


def _mapped(change, value):
    """``change`` of all tensors in ``value``, as torch's tree_map does several times slower."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        parts = [_mapped(change, part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return {name: _mapped(change, part) for name, part in value.items()} if isinstance(value, dict) else value


def _run(operation, *args, **kwargs):
    on_card, on_cpu = [], []

    def held(tensor):
        if isinstance(tensor, _OnCard):
            on_card.append(tensor)
            return tensor.held
        on_cpu.append(tensor)
        return tensor

    args, kwargs = _mapped(held, args), _mapped(held, kwargs)
    if on_card and any(tensor.ndim for tensor in on_cpu) and operation._schema.name not in _MIXED:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {operation} got some on {CARD} and some on the CPU")
    to_card = bool(on_card)
    if kwargs.get("device") is not None:
        to_card = torch.device(kwargs["device"]).type == CARD.type
        kwargs["device"] = torch.device("cpu")
    kwargs.pop("pin_memory", None)
    given = {id(tensor.held): tensor for tensor in on_card} | {id(tensor): tensor for tensor in on_cpu}

    def placed(made):
        return given[id(made)] if id(made) in given else _OnCard(made) if to_card else made

    return _mapped(placed, operation(*args, **kwargs))


_library = torch.library.Library("_", "IMPL")
_library.fallback(_run, "PrivateUse1")

# What torch does below the level at which another device can be put in: tensors in inference mode, and tensors made of numbers.
torch.inference_mode = lambda mode=True: torch.no_grad() if mode else torch.enable_grad()
_tensor = torch.tensor
torch.tensor = lambda data, device=None, **options: _tensor(data, **options).to(device or "cpu")


def have_card(total: Callable[[], int]) -> None:
    """From now on ComfyUI has one, of whose ``total()`` bytes its own models are all that takes any."""
    import comfy.model_management as management

    def free_memory(device=None, torch_free_too=False):
        cpu = device is not None and device.type == "cpu"
        free = 2**36 if cpu else total() - sum(model.model_loaded_memory() for model in management.current_loaded_models)
        return (free, free) if torch_free_too else free

    management.get_torch_device = lambda: CARD
    management.get_all_torch_devices = lambda: [CARD]
    management.get_free_memory = free_memory
    management.get_total_memory = lambda device=None, torch_total_too=False: (total(), total()) if torch_total_too else total()
    management.is_nvidia = lambda: False  # whatever torch was built for
    management.should_use_bf16 = management.should_use_fp16 = lambda *_, **__: False
    management.cpu_state, management.vram_state = management.CPUState.GPU, management.VRAMState.NORMAL_VRAM
