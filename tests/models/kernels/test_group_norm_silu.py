"""Group norm followed by SiLU; with channels last both are one function, whose results are those of torch's own."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from memo_modules.models import acceleration
from memo_modules.models.kernels.convolution import pointwise
from memo_modules.models.kernels.group_norm_silu import group_norm_silu
from memo_modules.models.layers import Layers, channels_last, preserve_format
from memo_modules.models.resnet import clip_group_norm
from tools.benchmarking import random_nets

WIDTH = 8
"""Of the largest pictures in a step of a net, whose layers are wider."""


class Counting:
    """group_norm_silu, and how often it was asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, *rest):
        assert x.is_contiguous() and x.ndim == 3
        self.calls += 1
        return group_norm_silu(x, *rest)


def layer(kernel: Counting | None, silu: bool) -> nn.GroupNorm:
    norm = Layers(group_norm_silu=kernel).group_norm(4, 12, 1e-5, silu)
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    return norm


def expected(norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    out = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(out) if norm.silu else out


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(
    "x, to_memory_format, calls",
    [
        (torch.randn(3, 12, 5, 4), channels_last, 1),
        (torch.randn(3, 12, 5, 4), preserve_format, 0),
        (torch.randn(3, 20, 12), lambda x: x.mT, 1),
        (torch.randn(3, 12, 20), preserve_format, 0),
        (torch.randn(3, 12, 5, 8), lambda x: channels_last(x)[..., ::2], 0),
    ],
    ids=["channels last", "channels first", "tokens", "their channels first", "every second column"],
)
@torch.no_grad()
def test_it_is_asked_where_channels_come_last(x, to_memory_format, calls, silu):
    kernel, x = Counting(), to_memory_format(x)
    norm = layer(kernel, silu)
    out = norm(x)
    assert kernel.calls == calls
    torch.testing.assert_close(out, expected(norm, x))
    torch.testing.assert_close(layer(None, silu)(x), out)
    if calls:
        assert out.shape == x.shape and out.stride() == x.stride()


@torch.no_grad()
def test_statistics_of_a_whole_clip():
    kernel = Counting()
    norm, x = layer(kernel, silu=True), torch.randn(6, 12, 5, 4)
    out = clip_group_norm(norm, channels_last(x), frames=3)
    assert kernel.calls == 1
    torch.testing.assert_close(out, clip_group_norm(layer(None, silu=True), x, frames=3))


def test_its_gradients_are_those_of_torch():
    kernel, x = Counting(), channels_last(torch.randn(3, 12, 5, 4)).requires_grad_()
    norm = layer(kernel, silu=True)
    norm(x).square().sum().backward()
    own, x.grad = x.grad, None
    expected(norm, x).square().sum().backward()
    assert kernel.calls == 0
    torch.testing.assert_close(own, x.grad)


def unlent(norm: nn.Module) -> None:
    norm.lender = lambda layer, x: nullcontext()


@pytest.mark.parametrize("change", [lambda norm: norm.to(torch.float64), lambda norm: norm.to("meta"), unlent], ids=["cast", "elsewhere", "not lent"])
@torch.no_grad()
def test_weights_that_have_to_be_fetched_are_left_to_the_host(change, monkeypatch):
    kernel = Counting()
    norm, x = layer(kernel, silu=True), channels_last(torch.randn(3, 12, 5, 4))
    change(norm)
    monkeypatch.setattr(nn.GroupNorm, "forward", lambda self, x: x.clone())
    assert torch.equal(norm(x), F.silu(x))
    assert kernel.calls == 0


@torch.no_grad()
def test_weights_that_a_host_lends_are_used_and_given_back():
    norm, x = layer(Counting(), silu=True), channels_last(torch.randn(3, 12, 5, 4))
    given_back = []

    @contextmanager
    def lender(layer, x):
        assert layer is norm and not given_back
        yield 2 * layer.weight, layer.bias + 1
        given_back.append(x)

    norm.lender = lender
    out = norm(x)
    assert norm.kernel.calls == len(given_back) == 1
    torch.testing.assert_close(out, F.silu(F.group_norm(x, norm.num_groups, 2 * norm.weight, norm.bias + 1, norm.eps)))


@torch.no_grad()
def test_a_compiler_sees_what_it_can_take_apart():
    kernel = Counting()
    norm, x = layer(kernel, silu=True), channels_last(torch.randn(3, 12, 5, 4))
    torch._dynamo.reset()
    out = torch.compile(norm, backend="aot_eager", fullgraph=True)(x)
    assert kernel.calls == 0
    torch.testing.assert_close(out, expected(norm, x))


def test_names_are_those_of_the_checkpoint():
    assert layer(Counting(), silu=True).state_dict().keys() == nn.GroupNorm(4, 12).state_dict().keys()


class Pictures(TorchDispatchMode):
    """Which operations were handed a picture (.. c h w) with its channels elsewhere than last, and how many pictures there were."""

    def __init__(self):
        super().__init__()
        self.seen, self.in_another_format = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        pictures = args[0] if name == "cat" else args[:1] if name == "convolution" else args[:2]
        if name in ("add", "cat", "convolution", "upsample_nearest2d"):
            for picture in pictures:
                if isinstance(picture, torch.Tensor) and picture.ndim > 3 and picture.shape[-1] <= WIDTH:  # and no tokens (b f t d)
                    self.seen += 1
                    self.in_another_format |= {name} if picture.stride(-3) != 1 else set()
        return function(*args, **(kwargs or {}))


def take_a_step(layers: Layers) -> set[bool]:
    """Of a net; whether the pictures that its regions make have their channels first."""
    frames, branches = 2, 2
    net = random_nets.random_net("diffusion_net", "tiny", layers)
    latents, audio, face = torch.randn(branches * frames, 4, 16, WIDTH), torch.randn(branches * frames, 32, 64), torch.randn(branches, 4, 64)
    memory = net.empty_memory()
    past = random_nets.random_net("reference_net", "tiny", layers)(latents, face.repeat_interleave(frames, dim=0))
    net.update_memory(past, memory, frames)
    conditioning = (audio, net.spatial_contexts(face, None), net.emotion_modulations(torch.tensor([9, 3]), torch.float32), memory, frames)
    first = set()

    def note(module, inputs, out) -> None:
        first.add((out[0] if isinstance(out, tuple) else out).is_contiguous())

    for module in net.modules():
        if isinstance(module, acceleration.REGIONS):
            module.register_forward_hook(note)
    net(latents, torch.tensor([500.0]), *conditioning)
    return first


@torch.no_grad()
def test_pictures_keep_their_channels_last_through_a_net():
    with Pictures() as pictures:
        first = take_a_step(Layers(to_memory_format=channels_last, conv_as_matmul=pointwise, group_norm_silu=Counting(), fused=True))
    assert first == {False}
    assert not pictures.in_another_format and pictures.seen > 50


@torch.no_grad()
def test_pictures_keep_their_channels_first_where_nothing_else_is_asked_for():
    """Training on the CPU depends on it: torch 2.13 crashes in the gradients of a group norm's weights alone otherwise."""
    assert take_a_step(Layers()) == {True}
