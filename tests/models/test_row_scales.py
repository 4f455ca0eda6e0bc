"""Weights in 8 bits with a scale for each output row: how near they are to the real ones, and layers and nets that are made of them."""

from typing import Any

import pytest
import torch
from torch import nn

from memo_modules.models import layers as layers_module
from memo_modules.models.layers import Layers
from memo_modules.models.row_scales import SMALLEST, rounded
from memo_modules.weights.checkpoints import load_net

ERRORS = {torch.int8: 0.01, torch.float8_e4m3fn: 0.028}
"""Relative, of Gaussian weights: half of the distance between two numbers, which int8 has 255 of and float8 in the same proportion everywhere."""

pytestmark = pytest.mark.usefixtures("one_thread")


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


def made(kind: str, dtype: torch.dtype | None, computes_in: torch.dtype, plain: Any, *sizes: int, **options) -> Any:
    """A layer with the weights of ``plain``, as a net gets them: built without, then loaded."""
    layers = Layers(dtype=computes_in, device="meta", storage=dtype, scaled=dtype is not None)
    layer = getattr(layers, kind)(*sizes, **options)
    bias = {key: tensor.to(computes_in) for key, tensor in plain.state_dict().items() if key == "bias"}
    layer.load_state_dict({"weight": plain.weight.detach(), **bias}, assign=True)
    return layer


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize(
    ("kind", "plain", "sizes", "options", "shape"),
    [
        ("linear", lambda: nn.Linear(320, 96), (320, 96), {}, (7, 320)),
        ("linear", lambda: nn.Linear(320, 96, bias=False), (320, 96), {"bias": False}, (7, 320)),
        ("conv1d", lambda: nn.Conv1d(64, 96, 3, padding=1), (64, 96, 3), {"padding": 1}, (1, 64, 9)),
        ("conv2d", lambda: nn.Conv2d(64, 96, 3, padding=1), (64, 96, 3), {"padding": 1}, (1, 64, 9, 9)),
        ("conv2d", lambda: nn.Conv2d(192, 96, 1), (192, 96, 1), {}, (1, 192, 3, 3)),
    ],
)
@torch.no_grad()
def test_layers_are_near_those_in_float32_whatever_the_size_of_a_row(dtype, kind, plain, sizes, options, shape):
    torch.manual_seed(0)
    layer = plain()
    nn.init.normal_(layer.weight, std=0.02)
    layer.weight.view(len(layer.weight), -1).mul_(torch.logspace(-4, 2, len(layer.weight))[:, None])  # float8 alone is 0 below 0.002
    found = made(kind, dtype, torch.float32, layer, *sizes, **options)
    assert found.weight.dtype == dtype and found.state_dict()["row_scale"].shape == (96, *[1] * (layer.weight.ndim - 1))
    x = torch.randn(shape)
    weights = found.scaled(found.weight.float())
    for row, expected in zip(weights.flatten(1), layer.weight.flatten(1), strict=True):
        assert error(row, expected) < 1.3 * ERRORS[dtype]
    assert torch.allclose(layer.bias, found.bias) if layer.bias is not None else found.bias is None
    # output channels one by one: the largest would hide all others
    for out, expected in zip(found(x).movedim(1 if x.ndim > 2 else -1, 0), layer(x).movedim(1 if x.ndim > 2 else -1, 0), strict=True):
        assert error(out, expected) < 3 * ERRORS[dtype]
    assert torch.equal(found.weight, made(kind, dtype, torch.float32, layer, *sizes, **options).weight), "nothing is changed by a use"


@pytest.mark.parametrize(("dtype", "scaled", "alone"), [(torch.int8, 0.01, 1.0), (torch.float8_e4m3fn, 0.027, 0.06)])
def test_wide_convolutions_lose_most_without_scales(dtype, scaled, alone):
    """The weights of a 3x3 kernel over 2560 channels are 0.0066 in the mean."""
    weight = torch.randn(64, 2560, 3, 3, generator=torch.Generator().manual_seed(0)) * (9 * 2560) ** -0.5
    held, scale = rounded(weight, dtype, torch.float32)
    assert error(held.float() * scale, weight) < scaled < alone <= error(weight.to(dtype), weight)


@pytest.mark.parametrize("computes_in", [torch.bfloat16, torch.float16])
def test_the_scale_loses_nothing_in_16_bits(computes_in):
    """It is rounded before the weights are divided by it."""
    weight = torch.randn(64, 320, generator=torch.Generator().manual_seed(0)) / 20
    held, scale = rounded(weight, torch.int8, computes_in)
    assert scale.dtype == computes_in
    assert error(held.float() * scale.float(), weight) < 1.02 * error((exact := rounded(weight, torch.int8, torch.float32))[0] * exact[1], weight)


def test_rows_of_nothing_and_of_what_is_no_number():
    weight = torch.randn(3, 8)
    weight[0], weight[1, 3] = 0, torch.nan
    held, scale = rounded(weight, torch.int8, torch.float32)
    found = held.float() * scale
    assert found[0].eq(0).all() and found[1].isnan().any() and error(found[2:], weight[2:]) < 0.02


def test_small_layers_stay_as_they_are():
    layers = Layers(dtype=torch.float32, storage=torch.int8, scaled=True)
    side = int(SMALLEST**0.5)
    assert not hasattr(layers.linear(side, side), "row_scale") and hasattr(layers.linear(side, side + 1), "row_scale")
    assert not hasattr(layers.conv2d(3, 8, 3), "row_scale")


@pytest.fixture
def all_scaled(monkeypatch):
    """Of a tiny net most weights are small ones."""
    monkeypatch.setattr(layers_module, "SMALLEST", 0)


@pytest.mark.parametrize("dtype", ERRORS)
def test_fused_rows_have_scales_too_and_their_names_in_a_file(all_scaled, tiny_models, dtype):
    nets = [
        load_net(tiny_models / "memo" / "tiny", "diffusion_net", Layers(dtype=torch.float32, storage=dtype, scaled=True, fused=fused))
        for fused in (False, True)
    ]
    apart, together = (net.state_dict() for net in nets)
    keys = {key for key in apart if not key.endswith("row_scale")}
    assert keys == {key for key in together if not key.endswith("row_scale")}
    assert all(torch.equal(apart[key].float(), together[key].float()) for key in keys)
    assert {apart[key].dtype for key in keys if key.endswith("to_q.weight")} == {dtype}
