"""Biases that a layer's resnet adds for the modules after it: the same velocity, in fewer passes over the pictures."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from memo_modules.models import diffusion_net
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.kernels.convolution import pointwise
from memo_modules.models.kernels.group_norm_silu import group_norm_silu
from memo_modules.models.layers import Layers, channels_last
from tools.benchmarking import random_nets

BRANCHES, FRAMES, SIDE = 2, 3, 8


@pytest.fixture(scope="module")
def net() -> DiffusionNet:
    layers = Layers(to_memory_format=channels_last, conv_as_matmul=pointwise, group_norm_silu=group_norm_silu, fused=True)
    net = random_nets.random_net("diffusion_net", "tiny", layers)
    assert isinstance(net, DiffusionNet)
    for buffer in net.buffers():  # places in time
        buffer.normal_(generator=torch.Generator().manual_seed(0))
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):  # large enough to be missed
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    return net


@pytest.fixture(scope="module")
def inputs(net) -> tuple:
    torch.manual_seed(0)
    past = random_nets.random_net("reference_net", "tiny", Layers())(
        torch.randn(BRANCHES * FRAMES, 4, SIDE, SIDE), torch.randn(BRANCHES * FRAMES, 4, 64)
    )
    memory = net.empty_memory()
    net.update_memory(past, memory, FRAMES)
    spatial = net.spatial_contexts(torch.randn(BRANCHES, 4, 64), past.select([0]))
    emotion = net.emotion_modulations(torch.tensor([9, 3]), torch.float32)
    latents, audio = torch.randn(BRANCHES * FRAMES, 4, SIDE, SIDE), torch.randn(BRANCHES * FRAMES, 32, 64)
    return latents, torch.tensor([500.0]), audio, spatial, emotion, memory, FRAMES


class Additions(TorchDispatchMode):
    """How many additions there were of whole pictures or of all of their tokens."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.count += function.overloadpacket.__name__ in ("add", "add_") and out.ndim == 4  # what is added by head has five
        return out


@torch.inference_mode()
def test_the_velocity_is_the_same_in_fewer_passes(net, inputs):
    with Additions() as plain:
        expected = net(*inputs)
    biases = net.layer_biases(inputs[2])
    with Additions() as ahead:
        velocity = net(*inputs, biases=biases)
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-4)
    layers = net.numbered_layers()
    shortcuts = sum(block.resnets[j].conv_shortcut is not None for block, j in layers)
    attending = sum(len(block.attentions) > 0 for block, _ in layers)
    in_time = sum(len(each) for each in inputs[5])
    saved = plain.count - ahead.count
    expected = shortcuts + 2 * attending + 2 * len(layers) + 2 * in_time
    assert saved == expected, "of last products, and of the motion's feed-forwards, times and attentions"


@torch.inference_mode()
def test_weights_that_are_not_lent_make_the_same(net, inputs, monkeypatch):
    biases, expected = net.layer_biases(inputs[2]), net(*inputs)
    for module in net.modules():
        monkeypatch.setattr(module, "lender", lambda layer, x: nullcontext(), raising=False)
    torch.testing.assert_close(net(*inputs, biases=biases), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_branches_of_the_same_latents_share_what_comes_before_the_first_attention(net, inputs):
    latents, *rest = inputs
    alike = latents[:FRAMES]
    resnet = net.down_blocks[0].resnets[0]
    seen = []
    handle = resnet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    for biases in (None, net.layer_biases(inputs[2])):
        shared, apart = net(alike, *rest, biases=biases), net(alike.repeat(BRANCHES, 1, 1, 1), *rest, biases=biases)
        assert shared.shape == latents.shape
        torch.testing.assert_close(shared, apart, rtol=1e-5, atol=1e-5)
    handle.remove()
    assert seen == [FRAMES, BRANCHES * FRAMES] * 2


@torch.inference_mode()
@pytest.mark.parametrize("layout", [channels_last, torch.Tensor.contiguous])
def test_what_is_shared_keeps_its_memory_format(layout):
    x = layout(torch.randn(2, 4, 3, 5))
    twice = diffusion_net._repeated(x, 2)
    assert torch.equal(twice, x.repeat(2, 1, 1, 1)) and twice.stride() == x.stride()


def test_where_gradients_are_wanted_there_are_none(net):
    assert net.layer_biases(torch.zeros(1)) is None


@torch.inference_mode()
def test_where_no_norm_takes_them_off_there_are_none(net, monkeypatch):
    like = torch.zeros(1)
    assert net.layer_biases(like) is not None
    monkeypatch.setattr(net, "compiled", {net.mid_block: net.mid_block})
    assert net.layer_biases(like) is None
    assert random_nets.random_net("diffusion_net", "tiny", Layers()).layer_biases(like) is None
