"""A convolution of few positions is a matmul on the CPU, a 1x1 convolution is one on a GPU; with the same results."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from memo_modules.models.kernels import convolution
from memo_modules.models.layers import Layers, channels_last, preserve_format


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
def test_the_matmul_is_the_convolution(height, width, kernel, stride, bias, monkeypatch):
    monkeypatch.setattr(convolution, "_OUTPUTS_PER_POSITION", 0)
    x = torch.randn(3, 6, height, width)
    weight, bias = torch.randn(10, 6, kernel, kernel), torch.randn(10) if bias else None
    expected = F.conv2d(x, weight, bias, stride, kernel // 2)
    for picture in (x, channels_last(x)):
        result = convolution.few_positions(picture, weight, bias, stride)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        assert result.is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_single_places_leaves_channels_last(bias):
    conv = Layers(conv_as_matmul=convolution.pointwise).conv2d(6, 10, 1, bias=bias)
    x = torch.randn(3, 6, 5, 4)
    with torch.no_grad(), Operations() as called:
        result = conv(channels_last(x))
    assert "convolution" not in called.names
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, F.conv2d(x, conv.weight, conv.bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel, stride, to_memory_format", [(3, 1, channels_last), (1, 2, channels_last), (1, 1, preserve_format)])
def test_no_other_is_one(kernel, stride, to_memory_format):
    conv = Layers(conv_as_matmul=convolution.pointwise).conv2d(6, 10, kernel, stride=stride, padding=kernel // 2)
    x = torch.randn(3, 6, 5, 4)
    with torch.no_grad(), Operations() as called:
        result = conv(to_memory_format(x))
    assert "convolution" in called.names
    torch.testing.assert_close(result, F.conv2d(x, conv.weight, conv.bias, stride, kernel // 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride, side, small", [(1, 2, True), (1, 3, False), (2, 3, True), (2, 5, False)])
def test_few_places_are_those_that_come_out(stride, side, small):
    conv = Layers(conv_as_matmul=convolution.few_positions).conv2d(4, 64, 3, stride=stride, padding=1)
    with torch.no_grad(), Operations() as called:
        conv(torch.randn(4, 4, side, side))
    assert ("convolution" in called.names) is not small


def test_it_keeps_names_and_class_and_is_asked_for():
    asked = Layers(conv_as_matmul=convolution.few_positions)
    plain, other = Layers().conv2d(4, 8, 3, padding=1), asked.conv2d(4, 8, 3, padding=1)
    assert type(plain) is nn.Conv2d and isinstance(other, nn.Conv2d)
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert type(other) is type(asked.conv2d(2, 2, 3, padding=1))
