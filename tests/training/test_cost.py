"""What a training step of the full-size nets takes at 512 x 512, one clip at a time, counted on the meta device."""

import pytest
import torch

from memo_modules.clips import ceil_div
from memo_modules.models.config import DiffusionNetConfig, ReferenceNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.models.projections import AudioProjection, ImageProjection
from memo_modules.models.reference_net import ReferenceNet
from memo_modules.sampler.sampling import MemoNets
from memo_modules.training.draws import StepDraws
from memo_modules.training.low_rank import LoraSettings, add_factors
from memo_modules.training.objective import TrainingBatch, training_loss
from memo_modules.training.parameters import MOTION_AND_AUDIO, held_parameters, make_optimizer, set_trainable
from tests.helpers.allocations import Allocations, nbytes
from tests.helpers.full_size import FRAMES, GIB, LATENT, manifest, meta


class FusedAttention(torch.autograd.Function):
    """What a GPU's attention holds, whose scores are never in memory: q, k, v and the outcome."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, gradient):
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def full_size_nets() -> MemoNets:
    layers = Layers(attention=lambda q, k, v, heads: FusedAttention.apply(q, k, v), dtype=torch.bfloat16, device="meta")
    wide = Layers(dtype=torch.float32, device="meta")
    options = {name: manifest(name)["constructor_kwargs"] for name in ("reference_net", "diffusion_net")}
    reference_net = ReferenceNet(ReferenceNetConfig.from_dict(options["reference_net"], ""), layers)
    diffusion_net = DiffusionNet(DiffusionNetConfig.from_dict(options["diffusion_net"], ""), layers)
    nets = (reference_net, diffusion_net, ImageProjection(wide), AudioProjection(wide))
    for net in nets:
        net.requires_grad_(False)
    return MemoNets(*nets, torch.device("meta"), torch.bfloat16)


def inputs(norms: int) -> tuple[TrainingBatch, StepDraws]:
    wide, flag = {"dtype": torch.float32}, {"dtype": torch.bool}
    latents = meta(1, FRAMES, 4, *LATENT, **wide)
    batch = TrainingBatch(
        latents, meta(1, 1 + FRAMES, 4, *LATENT, **wide), meta(1, 512, **wide), meta(1, FRAMES, 5, 12, 768, **wide), meta(1, dtype=torch.int64)
    )
    return batch, StepDraws(meta(1, **wide), meta(1, **wide), torch.empty_like(latents), meta(1, **flag), meta(1, **flag), meta(norms, 1, **flag))


def eight_bits(parameter: torch.nn.Parameter) -> int:
    """Bytes of its moments in bitsandbytes: a scale for each 256 of them, and small parameters in float32."""
    numbers = parameter.numel()
    return 2 * (numbers + 4 * ceil_div(numbers, 256)) if numbers >= 4096 else 8 * numbers


def needed(nets: MemoNets, trained: list[torch.nn.Parameter], eight_bit: bool = False) -> float:
    """Bytes on the GPU in all."""
    batch, draws = inputs(nets.diffusion_net.emotion_norms)
    modules = [nets.reference_net, nets.diffusion_net, nets.image_proj, nets.audio_proj]
    optimizer = make_optimizer(trained)
    optimizer.param_groups[0]["foreach"] = True  # as on a GPU
    masters, numbers = held_parameters(optimizer), sum(parameter.numel() for parameter in trained)
    with Allocations(modules, masters, batch, draws) as passes:
        training_loss(nets, batch, draws, checkpointing=True).loss.backward()
    with Allocations(modules, masters) as update:
        for master, parameter in zip(masters, trained, strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None
        if not eight_bit:
            optimizer.step()
    weights, held = sum(nbytes(module) for module in modules), nbytes(masters)
    moments = sum(map(eight_bits, trained)) if eight_bit else 8 * numbers
    updating = update.peak + moments if eight_bit else update.peak  # bitsandbytes updates in place, one parameter after the other
    assert held == 4 * numbers and updating > moments
    parts = {"weights": weights, "masters": held, "moments": moments, "passes": passes.peak, "update and moments": updating}
    print({name: f"{size / GIB:.2f} GiB" for name, size in parts.items()})
    vae = 0.2 * GIB  # its weights; at work, it is alone with weights and moments
    # the first step makes the moments, all others have them during their passes too; a twentieth for what a GPU adds
    return 1.05 * (vae + weights + held + max(moments + passes.peak, updating))


@pytest.mark.slow
def test_steps_of_the_published_finetuning_fit_on_a_card_of_24_gb():
    nets = full_size_nets()
    assert needed(nets, list(set_trainable(nets).values())) < 24e9


@pytest.mark.slow
def test_steps_of_the_published_finetuning_with_moments_of_8_bits_fit_on_a_card_of_16_gb():
    nets = full_size_nets()
    total = needed(nets, list(set_trainable(nets).values()), eight_bit=True)
    print(f"{total / GIB:.1f} GiB")
    assert total < 16e9


def test_steps_with_low_rank_factors_fit_on_a_card_of_12_gb():
    """With a twelfth of it for the system and what else is on the GPU."""
    nets = full_size_nets()
    trained = add_factors(nets, MOTION_AND_AUDIO, LoraSettings(16), seed=1)
    megabytes = sum(2 * parameter.numel() for parameter in trained.values()) / 1e6
    total = needed(nets, list(trained.values()))
    print(f"{megabytes:.0f} MB, {total / GIB:.1f} GiB")
    assert megabytes < 100 and total < 11.0 * GIB
