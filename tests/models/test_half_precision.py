"""Sixteen bits: nets as deep as the published ones stay in their range, and what does not is refused."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from memo_modules.errors import InputError
from memo_modules.models.config import DiffusionNetConfig, MotionConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.kernels.convolution import pointwise
from memo_modules.models.kernels.group_norm_silu import group_norm_silu
from memo_modules.models.layers import Layers, channels_last
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.models.resnet import Downsample
from memo_modules.sampler.sampling import sample_video
from memo_modules.weights.checkpoints import load_net
from tests.helpers.tiny_video import FACE, FAST, HAPPY, PORTRAIT, speech
from tools.benchmarking.random_nets import random_weights

FRAMES, D_AUDIO = 2, 32
SEVERAL_STEPS = replace(FAST, steps=3)
# two layers in a block, and so sixteen audio modules
REFERENCE_NET = ReferenceNetConfig(block_out_channels=(32,) * 4, cross_attention_dim=32, attention_head_dim=4)
DIFFUSION_NET = DiffusionNetConfig(
    **asdict(REFERENCE_NET),
    out_channels=4,
    audio_attention_dim=D_AUDIO,
    use_inflated_groupnorm=True,
    motion_module_kwargs=MotionConfig(num_attention_heads=4, num_transformer_block=1, temporal_position_encoding=True),
)


def filled(net: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    weights = random_weights(net.state_dict(), 0, torch.device("cpu"), torch.float32)
    net.load_state_dict({key: tensor.to(dtype) for key, tensor in weights.items()})
    return net.requires_grad_(False)


@torch.inference_mode()
def velocity(dtype: torch.dtype) -> tuple[torch.Tensor, float]:
    """The same step of the same net in a dtype, in float32, and the largest number that its audio modules were handed."""
    net = filled(DiffusionNet(DIFFUSION_NET, Layers(dtype=dtype)), dtype)
    largest = 0.0

    def note(module, inputs) -> None:
        nonlocal largest
        largest = max(largest, inputs[1].abs().max().item())

    for block, j in net.numbered_layers():
        if block.audio_modules:
            block.audio_modules[j].register_forward_pre_hook(note)
    generator = torch.Generator().manual_seed(1)
    latents, audio, face = (torch.randn(shape, generator=generator).to(dtype) for shape in ((FRAMES, 4, 8, 8), (FRAMES, 32, D_AUDIO), (1, 4, 32)))
    past = filled(ReferenceNet(REFERENCE_NET, Layers(dtype=dtype)), dtype)(latents, face.expand(FRAMES, -1, -1))
    memory = net.empty_memory()
    net.update_memory(past, memory, FRAMES)
    emotion = net.emotion_modulations(torch.tensor([3]), dtype)
    out = net(latents, torch.tensor([500.0]), audio, net.spatial_contexts(face, None), emotion, memory, FRAMES)
    assert out.dtype == dtype
    return out.float(), largest


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_a_net_as_deep_as_the_published_one_computes_in_sixteen_bits(dtype, tolerance):
    exact, largest = velocity(torch.float32)
    assert largest > torch.finfo(torch.float16).max, "else this test finds nothing"
    half, _ = velocity(dtype)
    assert (half - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize(("dtype", "remedy"), [(torch.float32, "All weights are finite"), (torch.float16, "weight_dtype fp16_fp32")])
def test_what_is_not_a_number_is_refused(tiny_nets, tiny_vae, dtype, remedy):
    """After the first step, and not after all of a clip."""
    frames, sixteen = [], dtype == torch.float16
    nets = replace(tiny_nets, dtype=dtype)
    if sixteen:
        nets = replace(nets, **{name: copy_in(getattr(tiny_nets, name), dtype) for name in ("reference_net", "diffusion_net")})
    passes = []
    damage = nets.diffusion_net.conv_out.register_forward_hook(lambda module, inputs, out: passes.append(out) or out * float("inf"))
    try:
        with pytest.raises(InputError, match=f"clip 1 came out as NaN or infinite.*{remedy}"):
            frames += sample_video(nets, tiny_vae, PORTRAIT, FACE, speech(32), HAPPY, SEVERAL_STEPS)
    finally:
        damage.remove()
    assert frames == [] and len(passes) == 1


def test_what_becomes_no_number_later_is_no_clip(tiny_nets, tiny_vae):
    """Before it becomes a frame, and the past of the next clip."""
    passes = []
    damage = tiny_nets.diffusion_net.conv_out.register_forward_hook(
        lambda module, inputs, out: passes.append(out) or (out * float("nan") if len(passes) > 1 else out)
    )
    try:
        with pytest.raises(InputError, match="clip 1 came out as NaN or infinite"):
            next(sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, speech(32), HAPPY, SEVERAL_STEPS))
    finally:
        damage.remove()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_a_number_is_named(tiny_nets, tiny_vae, value):
    damaged = copy_in(tiny_nets.diffusion_net, torch.float32)
    key = "conv_in.weight"
    damaged.state_dict()[key].view(-1)[3] = value
    with pytest.raises(InputError, match=f"clip 1 came out as NaN or infinite. The weight diffusion_net: '{key}' holds such numbers"):
        next(sample_video(replace(tiny_nets, diffusion_net=damaged), tiny_vae, PORTRAIT, FACE, speech(32), HAPPY, FAST))


@pytest.mark.parametrize(("step", "what"), [("encode", "the portrait"), ("decode", "the frames of clip 1")])
def test_a_vae_that_makes_no_numbers_is_named(tiny_nets, tiny_vae, monkeypatch, step, what):
    """Before a video of black frames is finished."""
    real = getattr(tiny_vae, step)
    monkeypatch.setattr(tiny_vae, step, lambda pictures: real(pictures) * float("nan"))
    with pytest.raises(InputError, match=f"vae: {what} came out as NaN or infinite"):
        next(sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, speech(32), HAPPY, FAST))


def copy_in(net: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    copy = type(net)(net.config, Layers(dtype=dtype))
    copy.load_state_dict(net.state_dict())
    return copy


@torch.inference_mode()
def test_a_stream_beyond_float16_is_kept_in_float32():
    """What the layers add up leaves the range; what each of them computes of it does not."""
    generator = torch.Generator().manual_seed(1)
    latents, audio, face = (torch.randn(shape, generator=generator) for shape in ((FRAMES, 4, 8, 8), (FRAMES, 32, D_AUDIO), (1, 4, 32)))

    def velocity(layers: Layers) -> torch.Tensor:
        nets = [filled(kind(config, layers), torch.float32) for kind, config in ((ReferenceNet, REFERENCE_NET), (DiffusionNet, DIFFUSION_NET))]
        for net in nets:
            net.conv_in.weight *= 2.0**12
            for resampler in (module.conv for module in net.modules() if isinstance(module, Downsample)):
                resampler.weight *= 2.0**5
        reference_net, net = nets
        past = reference_net(latents.to(layers.dtype), face.expand(FRAMES, -1, -1).to(layers.dtype))
        memory = net.empty_memory()
        net.update_memory(past, memory, FRAMES)
        spatial = net.spatial_contexts(face.to(layers.dtype), None)
        emotion = net.emotion_modulations(torch.tensor([3]), layers.dtype)
        return net(latents.to(layers.dtype), torch.tensor([500.0]), audio.to(layers.dtype), spatial, emotion, memory, FRAMES)

    expected = velocity(Layers(dtype=torch.float32))
    assert not velocity(Layers(dtype=torch.float16)).isfinite().all(), "else this test finds nothing"
    for layout in ({}, {"to_memory_format": channels_last, "group_norm_silu": group_norm_silu, "conv_as_matmul": pointwise, "fused": True}):
        half = velocity(Layers(dtype=torch.float16, stream=torch.float32, **layout))
        assert half.dtype == torch.float16
        assert (half - expected).norm() < 0.01 * expected.norm()


@torch.inference_mode()
def test_the_small_model_needs_its_stream_in_float32():
    """Its reference net adds up to 4e11, and within a layer to no more than some hundred: `python -m tools.bench range` says so."""
    place = Path(__file__).resolve().parents[2] / "assets" / "models" / "memo" / "small"
    generator = torch.Generator().manual_seed(1)
    latents, face = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 4, 64, generator=generator)

    def features(**layers) -> torch.Tensor:
        net = load_net(place, "reference_net", Layers(**layers))
        found = net(latents.to(net.conv_in.weight.dtype), face[..., : net.config.cross_attention_dim].to(net.conv_in.weight.dtype))
        return torch.cat([F.layer_norm(layer.float(), layer.shape[1:]).flatten() for layer in found.layers])

    expected = features(dtype=torch.float32)
    assert not features(dtype=torch.float16).isfinite().all()
    half = features(dtype=torch.float16, stream=torch.float32)
    assert (half - expected).norm() < 0.01 * expected.norm()
