"""A convolution of few places is a product on the CPU, one of single places on a card; with the same results."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from memo_modules.models.kernels import convolution
from memo_modules.models.layers import Layers, as_it_is, channels_last


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (5, 4)])
def test_the_product_is_the_convolution(height, width, kernel, stride, bias, monkeypatch):
    monkeypatch.setattr(convolution, "_OUTPUTS_PER_PLACE", 0)
    x = torch.randn(3, 6, height, width)
    weight, bias = torch.randn(10, 6, kernel, kernel), torch.randn(10) if bias else None
    expected = F.conv2d(x, weight, bias, stride, kernel // 2)
    for picture in (x, channels_last(x)):
        result = convolution.few_places(picture, weight, bias, stride)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert result.is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_single_places_leaves_channels_last(bias):
    conv = Layers(product=convolution.pointwise).conv2d(6, 10, 1, bias=bias)
    x = torch.randn(3, 6, 5, 4)
    with torch.no_grad(), Operations() as called:
        result = conv(channels_last(x))
    assert "convolution" not in called.names
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, F.conv2d(x, conv.weight, conv.bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel, stride, lay_out", [(3, 1, channels_last), (1, 2, channels_last), (1, 1, as_it_is)])
def test_no_other_is_one(kernel, stride, lay_out):
    conv = Layers(product=convolution.pointwise).conv2d(6, 10, kernel, stride=stride, padding=kernel // 2)
    x = torch.randn(3, 6, 5, 4)
    with torch.no_grad(), Operations() as called:
        result = conv(lay_out(x))
    assert "convolution" in called.names
    torch.testing.assert_close(result, F.conv2d(x, conv.weight, conv.bias, stride, kernel // 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride, side, small", [(1, 2, True), (1, 3, False), (2, 3, True), (2, 5, False)])
def test_few_places_are_those_that_come_out(stride, side, small):
    conv = Layers(product=convolution.few_places).conv2d(4, 64, 3, stride=stride, padding=1)
    with torch.no_grad(), Operations() as called:
        conv(torch.randn(4, 4, side, side))
    assert ("convolution" in called.names) is not small


def test_it_keeps_names_and_class_and_is_asked_for():
    asked = Layers(product=convolution.few_places)
    plain, other = Layers().conv2d(4, 8, 3, padding=1), asked.conv2d(4, 8, 3, padding=1)
    assert type(plain) is nn.Conv2d and isinstance(other, nn.Conv2d)
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert type(other) is type(asked.conv2d(2, 2, 3, padding=1))
