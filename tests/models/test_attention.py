"""What attention leaves out changes no result: two matrices stand for a face, and other tokens are not copied next to those of a picture."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from memo_modules.models import attention, audio_module
from memo_modules.models.attention import CrossAttention, SelfAttention
from memo_modules.models.audio_module import AudioTransformerBlock, EmotionAdaptiveNorm
from memo_modules.models.kernels.convolution import pointwise
from memo_modules.models.layers import Layers, channels_last, sdpa
from memo_modules.models.resnet import ResnetBlock
from memo_modules.models.transformer import SpatialTransformer

HEADS, D, FRAMES, TOKENS = 4, 32, 6, 9


@pytest.fixture
def face() -> tuple[CrossAttention, torch.Tensor]:
    """Attention to a face, and the tokens of two of them."""
    torch.manual_seed(0)
    return CrossAttention(Layers(), D, HEADS, 12), torch.randn(2, 5, 12) * 3


@torch.no_grad()
def test_two_matrices_stand_for_a_face(face):
    layer, tokens = face
    x, residual = torch.randn(2, 2 * FRAMES, TOKENS, D) * 2
    k, v = (y.repeat_interleave(FRAMES, dim=0) for y in (layer.to_k(tokens), layer.to_v(tokens)))
    expected = residual + layer.to_out[0](sdpa(layer.to_q(x), k, v, HEADS))
    result = layer.add_to(residual, x, layer.context(tokens))
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert result.data_ptr() == residual.data_ptr(), "in a pass of its own"


def test_gradients_reach_what_a_face_is_made_of(face):
    layer, tokens = face
    x, residual = torch.randn(2, 2 * FRAMES, TOKENS, D, requires_grad=True)
    k, v = (y.repeat_interleave(FRAMES, dim=0) for y in (layer.to_k(tokens), layer.to_v(tokens)))
    weights = dict(layer.named_parameters())
    expected = torch.autograd.grad((residual + layer.to_out[0](sdpa(layer.to_q(x), k, v, HEADS))).sin().sum(), [*weights.values()])
    kept = residual.clone()
    result = torch.autograd.grad(layer.add_to(residual, x, layer.context(tokens)).sin().sum(), [*weights.values()])
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert torch.equal(residual, kept)


@torch.no_grad()
def test_what_a_hook_adds_to_the_queries_counts(face):
    """As a LoRA in training does."""
    layer, tokens = face
    more = torch.randn(D, D)
    layer.to_q.register_forward_hook(lambda module, inputs, out: out + inputs[0] @ more.mT)
    hooked = layer.context(tokens)
    layer.to_q._forward_hooks.clear()
    layer.to_q.weight += more
    merged = layer.context(tokens)
    torch.testing.assert_close(hooked.scores, merged.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("references", [1, 2, 4])  # the last does not divide the frames
@pytest.mark.parametrize("unconditional", [0, 1])
@torch.no_grad()
def test_keys_of_a_reference_are_those_next_to_them(monkeypatch, references, unconditional):
    torch.manual_seed(0)
    net = SpatialTransformer(Layers(fused=True, to_memory_format=channels_last, conv_as_matmul=pointwise), D, HEADS, 12, 8)
    context = net.context(torch.randn(1 + unconditional, 4, 12), torch.randn(1, references, TOKENS, D))
    x = channels_last(torch.randn((1 + unconditional) * FRAMES, D, 3, 3))
    expected, _ = net(x, context)
    monkeypatch.setattr(attention, "joins_in_place", lambda x: True)
    with Names() as called:
        result, _ = net(x, context)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert "cat" not in called.names


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_tokens_before_others_are_projected_in_place(monkeypatch, fused):
    torch.manual_seed(0)
    layer, x = SelfAttention(Layers(fused=fused), D, HEADS), torch.randn(3, 5, D)
    for width in (2, 3):
        others = torch.randn(3, 1, 2, width * D)
        own = layer.qkv(x)
        parts = (*[None] * (3 - width), *others[:, 0].chunk(width, dim=-1))
        expected = [y if part is None else torch.cat([y, part], dim=1) for y, part in zip(own, parts, strict=True)]
        for in_place in (True, False):
            monkeypatch.setattr(attention, "joins_in_place", lambda x, in_place=in_place: in_place)
            for mine, theirs in zip(layer.qkv_before([x], others), expected, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])  # audio stays in float32 next to a picture in float16
@torch.no_grad()
def test_one_emotion_alone_shifts_and_scales_as_it_does_beside_another(dtype):
    torch.manual_seed(0)
    norm, x = EmotionAdaptiveNorm(Layers(), D), 3 * torch.randn(2 * FRAMES, TOKENS, D) + 1
    shift, scale = (y.to(dtype) for y in norm.modulation(torch.tensor([9, 3]), torch.float32))
    beside = norm(x, (shift, scale))
    for branch, rows in enumerate(x.chunk(2)):
        own = slice(branch, branch + 1)
        alone = norm(rows, (shift[own], scale[own]))
        assert alone.dtype == dtype
        torch.testing.assert_close(alone, beside.chunk(2)[branch], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_two_emotions_are_normed_for_themselves_and_projected_into_one(monkeypatch, fused):
    torch.manual_seed(0)
    block = AudioTransformerBlock(Layers(fused=fused), D, HEADS, 24)
    x, audio = 3 * torch.randn(2 * FRAMES, TOKENS, D) + 1, torch.randn(2 * FRAMES, 5, 24)
    modulations = block.modulations(torch.tensor([[9, 3]] * 4), torch.float32)
    expected = block(x, audio, modulations)
    for module in (attention, audio_module):
        monkeypatch.setattr(module, "joins_in_place", lambda x: True)
    with Names() as called:
        result = block(x, audio, modulations)
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    pictures = [size for name, size in called.sizes if name == "addcmul" and size == x.numel()]
    assert not pictures and ("cat" in called.names) is not fused


@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_the_time_is_part_of_a_bias(rows):
    torch.manual_seed(0)
    net = ResnetBlock(Layers(conv_as_matmul=pointwise), 16, 32, 24, 8, 1e-5)
    x, time = torch.randn(3, 16, 5, 4), torch.randn(rows, 24)
    h = net.conv1(net.norm1(x)) + net.time_emb_proj(time)[:, :, None, None]
    expected = net.conv2(net.norm2(h)) + F.conv2d(x, net.conv_shortcut.weight, net.conv_shortcut.bias)
    with Names() as called:
        result = net(x, time)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert called.added == ([5 * 4 * 32 * 3] if rows == 1 else [5 * 4 * 32 * 3] * 2), "additions of whole pictures"
    torch.testing.assert_close(net.conv1(x), F.conv2d(x, net.conv1.weight, net.conv1.bias, padding=1), rtol=1e-5, atol=1e-5)


class Names(TorchDispatchMode):
    """Names of the operations that were called, how many numbers each made, and each addition but for those of a bias."""

    def __init__(self):
        super().__init__()
        self.names, self.added, self.sizes = set(), [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.names.add(name := function.overloadpacket.__name__)
        self.sizes.append((name, out.numel() if isinstance(out, torch.Tensor) else 0))
        if name == "add" and out.ndim > 1:
            self.added.append(out.numel())
        return out
