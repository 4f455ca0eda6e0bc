"""The training objective where golden cases do not look: batches, masks, draws, checkpointing, what trains and moves."""

from dataclasses import replace

import pytest
import torch

from memo_modules.errors import InputError
from memo_modules.models.config import DiffusionNetConfig
from memo_modules.models.diffusion_net import DiffusionNet
from memo_modules.models.layers import Layers
from memo_modules.sampler.sampling import MemoNets
from memo_modules.training import objective, parameters
from memo_modules.training.draws import Rates, draw_pictures, draw_step
from memo_modules.training.regions import PastFrames, checkpointed, direct
from memo_modules.training.schedule import FlowSchedule, TimestepSampling
from memo_modules.types import NO_EMOTION, ReferenceFeatures
from tests.helpers.full_size import manifest
from tests.helpers.parity_training import train_batch, train_draws

pytestmark = pytest.mark.usefixtures("one_thread")

SQRT = TimestepSampling("sigma_sqrt")


@pytest.fixture
def batch(case) -> objective.TrainingBatch:
    return train_batch(case)


@pytest.fixture
def draws(case, nets):
    """Two clips under different conditions, and labels dropped at some norms."""
    flags = {"uncond_img": torch.tensor([True, False]), "uncond_audio": torch.tensor([False, True])}
    return replace(train_draws(case, case.meta["options"], nets.diffusion_net.emotion_norms), **flags)


def gradients(nets, result: objective.TrainingLoss) -> dict[str, torch.Tensor]:
    trained = parameters.set_trainable(nets)
    for parameter in trained.values():
        parameter.grad = None
    result.loss.backward()
    return {name: parameter.grad for name, parameter in trained.items()}


def clip_of(value, i: int):
    """Clip i of a TrainingBatch or of StepDraws, as a batch of one."""
    return value.rows(torch.tensor([i]))


def largest_difference(found: dict, expected: dict) -> float:
    scale = max(gradient.abs().max() for gradient in expected.values())
    return max((found[name] - expected[name]).abs().max() / scale for name in expected).item()


def test_a_batch_of_two_is_two_batches_of_one(nets, batch, draws):
    parameters.set_trainable(nets)
    both = objective.training_loss(nets, batch, draws, SQRT, None)
    together = gradients(nets, both)
    losses, alone = [], []
    for i in range(2):
        single = objective.training_loss(nets, clip_of(batch, i), clip_of(draws, i), SQRT, None)
        losses.append(single)
        alone.append(gradients(nets, single))
    torch.testing.assert_close(both.weighted, torch.cat([single.weighted for single in losses]), rtol=1e-5, atol=0)
    torch.testing.assert_close(both.loss, (losses[0].loss + losses[1].loss) / 2, rtol=1e-5, atol=0)
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in together}
    assert largest_difference(together, mean) < 1e-5


@pytest.mark.parametrize("field", ["uncond_img", "uncond_audio", "emotion_drop"])
def test_what_is_drawn_for_one_clip_changes_that_clip_alone(nets, batch, draws, field):
    nothing = replace(draws, **{name: torch.zeros_like(getattr(draws, name)) for name in ("uncond_img", "uncond_audio", "emotion_drop")})
    one = torch.zeros_like(getattr(draws, field))
    one[..., 1] = True
    with torch.no_grad():
        before, after = (
            objective.predict_velocity(nets, batch, given, objective.add_noise(batch.latents, given))
            for given in (nothing, replace(nothing, **{field: one}))
        )
    torch.testing.assert_close(before[0], after[0], rtol=0, atol=1e-5)
    assert (before[1] - after[1]).abs().max() > 1e-3


def unconditional(draws, *flags: bool):
    """draws with nothing dropped but all conditions of the clips that ``flags`` say."""
    none = {name: torch.zeros_like(getattr(draws, name)) for name in ("uncond_img", "uncond_audio", "emotion_drop")}
    return replace(draws, **none, unconditional=torch.tensor(flags))


def test_an_unconditional_clip_is_the_sampler_s_unconditional_half(nets, batch, draws):
    given = unconditional(draws, False, True)
    noisy = objective.add_noise(batch.latents, given)
    b, f = noisy.shape[:2]
    with torch.no_grad():
        found = objective.predict_velocity(nets, batch, given, noisy)
        conditional = objective.predict_velocity(nets, batch, unconditional(draws, False, False), noisy)
        # as in sampling.py: no face, no portrait, no sound, no label, but the past
        net, tokens = nets.diffusion_net, nets.image_proj(torch.zeros_like(batch.face_emb[1:]).float()).to(nets.dtype)
        silence = torch.zeros_like(nets.audio_proj(batch.audio_emb[1].float())).to(nets.dtype)
        memory, past = net.empty_memory(), objective.past_frames(nets, clip_of(batch, 1), clip_of(given, 1))
        net.update_memory(ReferenceFeatures(tuple(each[0].features for each in past)), memory, past[0][0].count)
        emotion = net.emotion_modulations(torch.tensor([NO_EMOTION]), nets.dtype)
        expected = net(noisy[1].to(nets.dtype), given.timesteps[1:], silence, net.spatial_contexts(tokens, None), emotion, memory, f)
    assert b == 2
    torch.testing.assert_close(found[0], conditional[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], expected.float(), rtol=0, atol=1e-5)
    assert (found[1] - conditional[1]).abs().max() > 1e-3


def test_unconditional_clips_train_what_they_see_and_leave_no_weight_without_a_gradient(nets, batch, draws):
    some = gradients(nets, objective.training_loss(nets, batch, unconditional(draws, True, False), SQRT, None))
    alone = [
        gradients(nets, objective.training_loss(nets, clip_of(batch, i), clip_of(unconditional(draws, True, False), i), SQRT, None)) for i in range(2)
    ]
    assert all(gradient is not None for gradient in alone[0].values())
    assert largest_difference(some, {name: (alone[0][name] + alone[1][name]) / 2 for name in some}) < 1e-5


def test_without_a_face_the_reference_net_has_that_of_zeros(nets, batch, draws):
    given = unconditional(draws, False, False)
    faceless = replace(batch, face_emb=torch.zeros_like(batch.face_emb))
    seen = []

    def note(module, inputs) -> None:
        seen.append(inputs[1])

    hook = nets.reference_net.register_forward_pre_hook(note)
    with torch.no_grad():
        noisy = objective.add_noise(batch.latents, given)
        for clips, face_drop in ((batch, torch.tensor([False, True])), (batch, None), (faceless, None)):
            objective.predict_velocity(nets, clips, replace(given, face_drop=face_drop), noisy)
    hook.remove()
    (past, portrait), (_, whole), (_, zeros) = seen[:2], seen[2:4], seen[4:]
    n = len(past) // 2
    assert torch.equal(portrait, torch.stack([whole[0], zeros[1]])) and not torch.equal(whole[1], zeros[1])
    assert torch.equal(past, portrait.repeat_interleave(n, dim=0))


def test_places_and_velocity_weigh_the_loss():
    latents, noise = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    sigmas, wrong = torch.tensor([0.5, 0.1]), torch.zeros(2, 3, 4, 2, 2)
    wrong[..., 0, 1] = 0.3
    noisy = sigmas.view(2, 1, 1, 1, 1) * noise + (1 - sigmas).view(2, 1, 1, 1, 1) * latents
    given = (noise - latents + wrong, noisy, latents, sigmas)
    places = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    plain = objective.flow_loss(*given, TimestepSampling(), None)
    torch.testing.assert_close(plain.weighted, sigmas**2 * 0.09 / 4)
    weighed = objective.flow_loss(*given, TimestepSampling(velocity=True), None, places)
    torch.testing.assert_close(weighed.weighted, torch.full((2,), 3 * 0.09 / 4), rtol=1e-4, atol=0)
    with pytest.raises(InputError, match="weights of its own"):
        TimestepSampling("cosmap", velocity=True)


def test_starts_of_videos_have_a_past_of_mid_grey_or_of_the_reference():
    pixels = torch.rand(4, 4, 3, 8, 8) + 0.1
    draws = draw_pictures(4, 4, 3, (4, 1, 1), Rates(), torch.Generator())
    draws.start_frame.copy_(torch.tensor([False, True, False, True]))
    draws.start_reference.copy_(torch.tensor([False, False, True, True]))
    found = objective.with_starts(pixels, draws)
    assert torch.equal(found[0], pixels[0]) and torch.equal(found[:, 0], pixels[:, 0])
    assert not found[[1, 3], 1:].any()
    assert torch.equal(found[2, 1:], pixels[2, :1].expand(3, -1, -1, -1))


def test_noise_comes_into_past_frames_alone_each_clip_its_share():
    latents = torch.randn(64, 4, 4, 2, 2)
    draws = draw_pictures(64, 4, 3, (4, 2, 2), Rates(past_noise=0.5), torch.Generator().manual_seed(0))
    assert 0 <= draws.past_noise.min() < 0.05 and 0.45 < draws.past_noise.max() <= 0.5
    found = objective.with_past_noise(latents, draws)
    assert torch.equal(found[:, 0], latents[:, 0])
    clip = draws.past_noise.argmax()
    share = draws.past_noise[clip]
    torch.testing.assert_close(found[clip, 1:], latents[clip, 1:] * (1 - share) + draws.disturbance[clip] * share)
    none = draw_pictures(64, 4, 3, (4, 2, 2), Rates(), torch.Generator().manual_seed(0))
    assert torch.equal(objective.with_past_noise(latents, none), latents)


def test_no_gradient_flows_through_past_frames(nets, batch, draws):
    parameters.set_trainable(nets)
    batch = clip_of(batch, 1)
    batch = replace(batch, reference_latents=batch.reference_latents.clone().requires_grad_())
    objective.training_loss(nets, batch, clip_of(draws, 1), robust_threshold=None).loss.backward()
    gradient = batch.reference_latents.grad
    assert gradient[:, 0].any() and not gradient[:, 1:].any()


def test_checkpointing_gives_the_same_gradients_and_keeps_less(nets, batch, draws):
    kept, one, draw = {}, clip_of(batch, 1), clip_of(draws, 1)

    def run(checkpointing: bool) -> dict:
        parameters.set_trainable(nets)
        sizes = {}
        note = torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.update({x.data_ptr(): x.nbytes}) or x, lambda x: x)
        with note:
            result = objective.training_loss(nets, one, draw, robust_threshold=None, checkpointing=checkpointing)
        kept[checkpointing] = sum(sizes.values())
        return gradients(nets, result)

    assert largest_difference(run(True), run(False)) < 1e-6
    assert kept[True] < kept[False] / 4


def test_a_checkpointed_motion_module_drops_its_memory(nets):
    module = nets.diffusion_net.mid_block.motion_modules[0].requires_grad_(True)
    c = module.temporal_transformer.proj_out.weight.shape[0]
    x, past = torch.randn(3, c, 4, 4), (PastFrames(torch.randn(2, c, 4, 4), 2),)
    memories = []
    original = module.update_memory
    module.update_memory = lambda *args: memories.append(1) or original(*args)
    try:
        checkpointed(module, x, past, 3).sum().backward()
        assert len(memories) == 2, "made again in the backward pass"
        memories.clear()
        direct(module, x, past, 3).sum().backward()
        assert len(memories) == 1
    finally:
        del module.update_memory


@pytest.mark.parametrize("part", ["attentions", "resnets", "norm2", "conv_norm_out"])
def test_other_parts_of_the_net_can_train(nets, batch, draws, part):
    trained = parameters.set_trainable(nets, {"diffusion_net": (part,)})
    objective.training_loss(nets, clip_of(batch, 1), clip_of(draws, 1), robust_threshold=None).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained.values())


def weighed(values: list[float], threshold: float | None) -> tuple[objective.TrainingLoss, torch.Tensor]:
    """The robust loss of samples with these losses, and the velocity it is the loss of, all sigmas being 1."""
    latents = torch.zeros(len(values), 1, 1, 2, 2)
    velocity = -torch.tensor(values).sqrt().view(-1, 1, 1, 1, 1).expand_as(latents).clone()
    velocity.requires_grad_()
    return objective.flow_loss(velocity, latents, latents, torch.ones(len(values)), TimestepSampling(), threshold), velocity


def test_the_robust_loss_is_the_mean_of_what_it_keeps_and_says_how_much_it_left_out():
    result, velocity = weighed([0.01, 0.09, 0.11, 3.0], 0.1)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(0.05)
    assert result.kept.tolist() == [True, True, False, False] and result.mask_rate == 0.5
    assert velocity.grad[:2].any() and not velocity.grad[2:].any()
    result, velocity = weighed([0.2, 0.3], 0.1)
    result.loss.backward()
    assert result.loss == 0 and result.mask_rate == 1 and not velocity.grad.any()
    result, _ = weighed([0.01, 3.0], None)
    assert result.loss.item() == pytest.approx(1.505) and result.mask_rate == 0


def test_each_loss_has_the_weight_of_its_own_sigma():
    ones = torch.ones(2, 1, 1, 2, 2)
    sigmas = torch.tensor([0.5, 0.1])
    result = objective.flow_loss(ones, ones, ones, sigmas, SQRT, None)  # the error of x0 is sigma, its square over sigma² is 1
    assert result.weighted.tolist() == pytest.approx([1.0, 1.0])
    assert result.loss.item() == pytest.approx(1.0)
    assert not objective.flow_loss(ones, ones, ones, sigmas, SQRT, 0.1).kept.any(), "the threshold is for the weighted loss"


def test_a_gradient_that_is_not_finite_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = parameters.make_optimizer([parameter])
    parameter.grad = torch.tensor([1.0, float("nan"), 1.0])
    report = parameters.optimizer_step(optimizer, [parameter])
    assert not report.stepped and torch.equal(parameter.detach(), torch.ones(3))
    assert parameter.grad is None and not optimizer.state
    parameter.grad = torch.full((3,), 2.0)
    report = parameters.optimizer_step(optimizer, [parameter])
    assert report.stepped and report.grad_norm == pytest.approx(12**0.5) and (parameter < 1).all()


@pytest.mark.parametrize("masters, moves", [(True, True), (False, False)])
def test_bfloat16_weights_move_with_float32_masters_alone(masters, moves):
    parameter = torch.nn.Parameter(torch.full((4,), 0.5, dtype=torch.bfloat16))
    optimizer = parameters.make_optimizer([parameter], float32_masters=masters)
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        parameters.optimizer_step(optimizer, [parameter])
    assert (parameter.detach() != 0.5).all() == moves
    assert parameter.dtype == torch.bfloat16


def test_what_trains_is_told_by_names(nets):
    trained = parameters.set_trainable(nets, {"diffusion_net": ("mid_block.motion",), "image_proj": None})
    assert {name.split(".")[0] for name in trained} == {"diffusion_net", "image_proj"}
    assert all(name.startswith(("diffusion_net.mid_block.motion_modules.", "image_proj.")) for name in trained)
    others = [p for net in (nets.diffusion_net, nets.reference_net, nets.audio_proj) for p in net.parameters()]
    assert sum(p.requires_grad for p in others) == len(trained) - len(list(nets.image_proj.parameters()))
    for trainable, message in (({"vae": None}, "vae"), ({"reference_net": ("motion_modules",)}, "motion_modules")):
        with pytest.raises(InputError, match=message):
            parameters.set_trainable(nets, trainable)


def test_the_full_size_net_trains_as_many_parameters_as_published():
    config = DiffusionNetConfig.from_dict(manifest("diffusion_net")["constructor_kwargs"], "")
    net = DiffusionNet(config, Layers(device="meta"))
    others = (torch.nn.Module() for _ in range(3))
    trained = parameters.set_trainable(MemoNets(next(others), net, *others, torch.device("meta"), torch.float32))
    tensors, numbers = {1: (1386, 817_304_256), 2: (1806, 1_229_273_216)}[config.motion_module_kwargs.num_transformer_block]
    assert (len(trained), sum(parameter.numel() for parameter in trained.values())) == (tensors, numbers)
    assert net.emotion_norms == 64


def test_draws_come_from_their_generator_at_their_rates():
    rates = Rates(0.5, 0.4, uncond_img=0.25, uncond_audio=0.0, emotion_drop=0.3, unconditional=0.1, face_drop=0.6)

    def draw(seed: int):
        generator = torch.Generator().manual_seed(seed)
        pictures = draw_pictures(2000, 1, 2, (1, 1, 1), rates, generator)
        return pictures, draw_step((2000, 1, 1, 1, 1), 8, TimestepSampling(), FlowSchedule.make(), rates, generator)

    (pictures, step), (_, same), (_, other) = draw(1), draw(1), draw(2)
    assert all(torch.equal(value, getattr(same, name)) for name, value in vars(step).items())
    assert not torch.equal(step.noise, other.noise)
    assert pictures.reference.shape == (2000, 3, 1, 1, 1) and step.emotion_drop.shape == (8, 2000)
    flags = (
        pictures.start_frame,
        pictures.start_reference,
        step.uncond_img,
        step.uncond_audio,
        step.emotion_drop,
        step.unconditional,
        step.face_drop,
    )
    assert [flag.float().mean().item() for flag in flags] == pytest.approx([0.5, 0.4, 0.25, 0, 0.3, 0.1, 0.6], abs=0.04)
    assert not torch.equal(step.emotion_drop[0], step.emotion_drop[1])
    assert ((step.sigmas > 0) & (step.sigmas <= 1)).all()
    torch.testing.assert_close(step.sigmas * 1000, step.timesteps)


def test_the_schedule_ends_where_a_scheme_goes_beyond_it():
    schedule = FlowSchedule.make()
    timesteps, sigmas = schedule.at(torch.tensor([0.0, 0.9999, 1.0]))
    assert timesteps.tolist() == [1000, 1, 1] and sigmas.tolist() == pytest.approx([1, 0.001, 0.001])
    shifted = FlowSchedule.make(shift=3.0)
    assert shifted.sigmas[500].item() == pytest.approx(3 * 0.5 / (1 + 2 * 0.5)) and shifted.timesteps[0] == 1000
    with pytest.raises(InputError, match="weighting_scheme"):
        TimestepSampling("uniform")
