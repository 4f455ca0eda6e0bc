"""What one full-size step costs, counted on the meta device, where any look at a value on the host would raise."""

import pytest
import torch
from test_manifests import BUILD, manifest
from torch.utils.flop_counter import FlopCounterMode

from comfyui_memo.memo_modules import footprint

FRAMES, LATENT = 16, 64


@pytest.fixture(scope="module")
def nets():
    return {
        name: BUILD[name](manifest(name)["constructor_kwargs"]).to(torch.bfloat16)
        for name in ("reference_net", "diffusion_net")
    }


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def test_one_guided_step_at_512(nets):
    net = nets["diffusion_net"]
    face = meta(2, 4, 768)
    portrait = nets["reference_net"](meta(2, 4, LATENT, LATENT), face)
    memory = net.update_memory(portrait.select([0] * FRAMES + [1] * FRAMES), None, FRAMES)
    spatial = net.spatial_contexts(face, portrait)
    emotion = net.emotion_modulations(torch.empty(2, device="meta", dtype=torch.int), torch.bfloat16)
    latents, audio = meta(2 * FRAMES, 4, LATENT, LATENT), meta(2 * FRAMES, 32, 768)
    with FlopCounterMode(display=False) as counter:
        velocity = net(latents, torch.empty(1, device="meta"), audio, spatial, emotion, memory, FRAMES)
    assert velocity.shape == latents.shape
    # 59.5 TFLOP in the reference implementation, 50.9 without what it computes twice or every step
    assert counter.get_total_flops() <= 50.9e12

    numbers = sum(block.kv.numel() + block.z.numel() for module in memory for block in module)
    assert footprint.motion_memory_bytes(net.config, (LATENT, LATENT), halves=2, itemsize=2) == 2 * numbers
    features = sum(layer.numel() for layer in portrait.layers)
    assert footprint.reference_bytes(net.config, (LATENT, LATENT), pictures=2, itemsize=2) == 2 * features
