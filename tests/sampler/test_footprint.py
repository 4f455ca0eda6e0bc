"""What the full-size nets cost at 512 x 512, counted on the meta device, where any look at a value on the host raises."""

import sys
from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memo_modules.models.attention import FeedForward
from memo_modules.models.config import DiffusionNetConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.sampler import solvers
from memo_modules.sampler.footprint import Footprint
from memo_modules.sampler.guidance import ClipConditioning, GuidedVelocity
from memo_modules.sampler.sampling import MemoNets
from memo_modules.types import ReferenceFeatures, SamplerSettings
from tests.helpers.allocations import Allocations, nbytes
from tests.helpers.full_size import FRAMES, GIB, LATENT, manifest, meta

PASSES = {"normal": [(0, 1)], "low": [(0,), (1,)]}


@dataclass
class Clip:
    """One clip in the making: the passes' conditionings, and the most that was held to make them in addition to the memory."""

    passes: list[ClipConditioning]
    features: ReferenceFeatures | None
    reference_peak: int
    update_peak: int


@pytest.fixture(scope="module", params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "fused"])
def nets(request) -> MemoNets:
    layers = Layers(dtype=torch.bfloat16, device="meta", fused=request.param)
    options = {name: manifest(name)["constructor_kwargs"] for name in ("reference_net", "diffusion_net")}
    reference_net = ReferenceNet(ReferenceNetConfig.from_dict(options["reference_net"], ""), layers)
    diffusion_net = DiffusionNet(DiffusionNetConfig.from_dict(options["diffusion_net"], ""), layers)
    return MemoNets(reference_net, diffusion_net, None, None, torch.device("meta"), torch.bfloat16)


def make_clip(nets: MemoNets, passes: list[tuple[int, ...]]) -> Clip:
    """A clip that is not the first: its memory is there already when it is updated."""
    net, clip = nets.diffusion_net, Clip([], None, 0, 0)
    for branches in passes:
        count = len(branches)
        pictures, contexts, face = meta(count * FRAMES, 4, *LATENT), meta(count * FRAMES, 4, 768), meta(count, 4, 768)
        with Allocations(nets.reference_net, pictures, contexts) as reference:
            features = nets.reference_net(pictures, contexts)
        memory = net.empty_memory()
        net.update_memory(features, memory, FRAMES)
        with Allocations(net, list(features.layers), memory) as update:
            net.update_memory(features, memory, FRAMES)
        clip.features = features
        portrait = features.select([0]) if branches[-1] == 1 else None
        spatial = net.spatial_contexts(face, portrait)
        emotion = net.emotion_modulations(meta(count, dtype=torch.int), torch.bfloat16)
        clip.passes.append(ClipConditioning(meta(count * FRAMES, 32, 768), spatial, emotion, memory))
        clip.reference_peak, clip.update_peak = max(clip.reference_peak, reference.peak), max(clip.update_peak, update.peak - nbytes(memory))
    return clip


@pytest.fixture(scope="module")
def clips(nets) -> dict[str, Clip]:
    with torch.inference_mode():
        return {mode: make_clip(nets, passes) for mode, passes in PASSES.items()}


def step(nets: MemoNets, passes: list[ClipConditioning]) -> None:
    noise = meta(FRAMES, 4, *LATENT, dtype=torch.float32)
    sigmas = torch.tensor([1.0, 0.0])  # only the solver's numbers are on the host

    def velocity(latents, sigma):
        return GuidedVelocity(nets.diffusion_net, passes, SamplerSettings(), FRAMES)(latents, sigma.to("meta"))

    latents = solvers.euler(velocity, noise, sigmas, lambda step: None)
    assert latents.shape == noise.shape and latents.device.type == "meta"


def attention_flops() -> int:
    """Of q kᵀ and its product with v in one guided step, from the sizes alone: 4 tokens·keys·width per row; of a face's keys eight
    times as many, one for each head."""
    flops = 0
    levels = [(320, 4096, 5, (320, 320, 320, 320, 320)), (640, 1024, 5, (320, 640, 320, 320, 320)), (1280, 256, 5, (640, 1280, 640, 640, 640))]
    for d, tokens, layers, d_audio in levels:
        rows = 2 * FRAMES
        flops += layers * 4 * d * (FRAMES * tokens * tokens + FRAMES * tokens * 2 * tokens + rows * tokens * 4 * 8)  # to itself, portrait and face
        flops += sum(4 * width * rows * (tokens**2 + 32**2 + (tokens + 32) ** 2) for width in d_audio)
    rows, tokens = 2 * FRAMES, 64
    flops += 4 * 1280 * (FRAMES * tokens**2 * 3 + rows * tokens * 4 * 8) + 4 * 1280 * rows * (tokens**2 + 32**2 + (tokens + 32) ** 2)
    return flops


def projection_flops() -> int:
    """Of the projections to queries, keys and values of a picture with a portrait, and with audio: each is one product for each picture."""
    levels = [
        (320, 4096, (320, 320, 320, 320, 320)),
        (640, 1024, (320, 640, 320, 320, 320)),
        (1280, 256, (640, 1280, 640, 640, 640)),
        (1280, 64, (1280,)),
    ]
    return sum(6 * FRAMES * tokens * (d * d + 2 * d_audio * d_audio) for d, tokens, widths in levels for d_audio in widths)


def linear_attention_flops() -> int:
    """Of the motion modules' products in one guided step: with k, with v, with the memory, and with its normaliser."""
    flops = 0
    for d, tokens, layers in [(320, 4096, 5), (640, 1024, 5), (1280, 256, 5), (1280, 64, 6)]:
        head = d // 8
        flops += layers * 2 * (2 * tokens * 8) * 2 * FRAMES * (2 * FRAMES * head + head * head + head)
    return flops


@pytest.mark.parametrize("mode", PASSES)
@torch.inference_mode()
def test_one_guided_step(nets, clips, mode):
    passes = clips[mode].passes
    with FlopCounterMode(display=False) as counter, Allocations(nets.diffusion_net, passes) as held:
        step(nets, passes)
    # 59.5 TFLOP in the reference implementation, 50.1 without what it computes twice or every step
    assert counter.get_total_flops() <= 50.1e12
    counts = counter.get_flop_counts()["Global"]
    products = sum(flops for operation, flops in counts.items() if "bmm" in str(operation))  # what attention comes to on meta
    fused = "to_qkv" in nets.diffusion_net.mid_block.attentions[0].transformer_blocks[0].attn1._modules
    assert products == attention_flops() + linear_attention_flops() + (projection_flops() if fused else 0)
    counted = Footprint(nets.diffusion_net.config, LATENT, SamplerSettings()).activations(FRAMES, len(PASSES[mode][0]))
    # Python 3.10 keeps what a call was given until it returns: two small tensors more
    assert held.peak <= counted + (8e6 if sys.version_info < (3, 11) else 0)


@pytest.mark.parametrize("mode", PASSES)
@torch.inference_mode()
def test_what_a_clip_holds_is_what_the_footprint_says(nets, clips, mode):
    clip, branches = clips[mode], len(PASSES[mode][0])
    footprint = Footprint(nets.diffusion_net.config, LATENT, SamplerSettings())
    memory = [part.memory for part in clip.passes]
    assert nbytes(memory) == footprint.motion_memory
    features = footprint.features(branches * FRAMES)
    layer = max(nbytes(layer) for layer in clip.features.layers)
    assert nbytes(clip.features) == features
    activations = footprint.activations(FRAMES, branches)
    assert clip.reference_peak <= features + activations
    assert clip.update_peak <= activations  # module by module: the memory is never there twice
    largest = max(nbytes(module) for module in memory[0])
    if mode == "low":
        working, portrait = footprint.low_memory, footprint.features(2)
        assert clip.reference_peak <= working["reference"] - portrait
        assert layer + clip.update_peak <= working["diffusion"] - portrait  # one layer of the past at a time
        assert 4 * largest == footprint.streamed_memory


@torch.inference_mode()
def test_modes_fit_the_cards_they_are_for(nets):
    """Exact in 16 GB with everything on the GPU, low-memory in less than 6: counted, with a twentieth for what a GPU adds."""
    footprint = Footprint(nets.diffusion_net.config, LATENT, SamplerSettings())
    weights = {"diffusion": nbytes(nets.diffusion_net), "reference": nbytes(nets.reference_net)}
    small = 0.4 * GIB  # VAE, projections, contexts of portrait and face
    whole = sum(weights.values()) + footprint.motion_memory + footprint.working
    assert 1.05 * (whole + small) <= 16e9
    low = max(weights[phase] + footprint.low_memory[phase] for phase in weights) + footprint.streamed_memory
    assert 1.05 * (low + small) <= 5.7 * GIB


@pytest.mark.parametrize("slow", ["item", "mask", "copy"])
@torch.inference_mode()
def test_a_step_that_waits_for_the_device_raises(nets, clips, slow):
    """What keeps the tests above honest: each of these would stop a GPU, and raises on meta."""
    waiting = {"item": lambda x: x.sum().item(), "mask": lambda x: x[x > 0], "copy": lambda x: x.numpy()}[slow]
    hook = nets.diffusion_net.mid_block.motion_modules[0].register_forward_hook(lambda module, inputs, output: waiting(output) and None)
    try:
        with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
            step(nets, clips["normal"].passes)
    finally:
        hook.remove()


@torch.inference_mode()
def test_a_compiled_feed_forward_writes_nothing_in_place():
    """A compiler turns writing into a part of a tensor into a copy of the whole: 16 pictures for the 12 of the plain product."""
    graphs = []

    def kept(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    x = torch.randn(2, 3, 8)
    layer = FeedForward(Layers(), 8)
    compiled = torch.compile(layer, backend=kept, fullgraph=True)(x)
    assert torch.allclose(compiled, layer(x), atol=1e-6)
    called = [str(node.target) for node in graphs[0].graph.nodes if node.op.startswith("call")]
    assert called and not any(name.endswith("_") for name in called)
