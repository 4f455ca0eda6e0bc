"""Digests of weights and tensors: what changes them, and that they do not ask where something lies."""

import pytest
import torch
from torch import nn

from comfyui_memo.memo_modules.fingerprints import tensor_digest, weights_digest


class OnCard(torch.Tensor):
    """A tensor that says it is on a card, and like one cannot be joined with tensors on the CPU, nor read by numpy."""

    device = torch.device("cuda", 0)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.cat and len({tensor.device for tensor in args[0]}) > 1:
            raise RuntimeError("Expected all tensors to be on the same device")
        if function is torch.Tensor.numpy:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        result = super().__torch_function__(function, types, args, kwargs)
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else result


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(100, 70), nn.BatchNorm1d(70))


@pytest.mark.parametrize("on_card", ["weight", "bias", "1", "running", ""])
def test_a_net_has_one_digest_wherever_its_parts_are(on_card):
    """As ComfyUI leaves one of which the card holds a part."""
    module = net()
    expected = weights_digest(module)
    state = {name: weight.as_subclass(OnCard) if on_card in name else weight for name, weight in module.state_dict().items()}
    module.state_dict = lambda: state
    assert weights_digest(module) == expected


@pytest.mark.parametrize("name", list(net().state_dict()))
def test_each_weight_counts(name):
    module, other = net(), net()
    other.state_dict()[name].view(-1)[0] += 1
    assert weights_digest(module) == weights_digest(net()) != weights_digest(other)


def test_a_tensor_has_one_digest_wherever_it_is():
    tensor = torch.arange(12.0).view(3, 4)
    assert tensor_digest(tensor) == tensor_digest(tensor.as_subclass(OnCard)) == tensor_digest(tensor.t().contiguous().t())
    assert len({tensor_digest(other) for other in (tensor, tensor.t(), tensor + 1, tensor.double())}) == 4
