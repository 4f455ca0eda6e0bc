"""Passes that are left out: each setting does what it says, alone, and leaves the published computation as it was."""

import copy
import math
from dataclasses import asdict, fields, is_dataclass, replace

import pytest
import torch

from memo_modules.errors import InputError
from memo_modules.models.diffusion_net import DeepFeatures
from memo_modules.sampler import recipes
from memo_modules.sampler.guidance import ClipConditioning, GuidedVelocity
from memo_modules.sampler.sampling import sample_video
from memo_modules.sampler.solvers import SOLVERS, adams_bashforth, check_sigmas, even_sigmas, flow_sigmas
from memo_modules.types import SamplerSettings
from tests.helpers.tiny_video import FACE, HAPPY, PORTRAIT, speech

CHEAPER = {"steps": 4, "schedule": "even", "solver": "adams_bashforth", "unconditional_every": 2, "past_every": 4, "whole_every": 2}


@pytest.fixture
def frames(tiny_nets, tiny_vae, one_thread):
    def make(settings: SamplerSettings, count: int = 40, **options) -> torch.Tensor:
        return torch.cat([clip.frames for clip in sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, speech(count), HAPPY, settings, **options)])

    return make


def test_even_sigmas_are_the_published_ones_without_their_last_step():
    assert even_sigmas(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert torch.allclose(even_sigmas(19)[:-1], flow_sigmas(20)[:-2], atol=1e-3)
    check_sigmas(even_sigmas(1))
    with pytest.raises(InputError, match="steps: expected at least 1"):
        even_sigmas(0)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("adams_bashforth", 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver, order):
    """dx/ds = x·cos(s): x(0) = x(1)·exp(-sin 1)."""
    start, calls = torch.ones(1, 1, dtype=torch.float64), []

    def error(steps: int) -> float:
        calls.clear()
        sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        end = SOLVERS[solver](lambda x, sigma: x * torch.cos(sigma), start, sigmas, calls.append)
        return abs(float(end) - math.exp(-math.sin(1)))

    assert error(64) / error(128) == pytest.approx(2**order, rel=0.05)
    assert calls == list(range(1, 129))


def test_uneven_steps_bend_by_their_lengths():
    """A velocity that is linear in sigma is integrated exactly after the first step, however long the steps are."""
    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.3, 0.0], dtype=torch.float64)
    end = adams_bashforth(lambda x, sigma: 2 * sigma * torch.ones_like(x), torch.zeros(1, dtype=torch.float64), sigmas, lambda step: None)
    euler_error = -0.1 * 2.0 - (0.9**2 - 1)
    assert float(end) == pytest.approx(-1 + euler_error, abs=1e-12)


@pytest.mark.parametrize("pictures", [(1, 1, 1), (4, 4, 4, 4), (2, 4, 4), (1, 3, 2)])
def test_a_past_picture_stands_for_equal_frames(tiny_nets, pictures):
    """The memory is the one after every frame that they stand for, one by one, on top of what was remembered before."""
    net, size = tiny_nets.diffusion_net, PORTRAIT.shape[-1] // 8
    generator = torch.Generator().manual_seed(0)
    seen = tiny_nets.reference_net(
        torch.randn(2 * len(pictures), 4, size, size, generator=generator), torch.zeros(2 * len(pictures), 4, net.config.cross_attention_dim)
    )
    repeated = seen.select([branch * len(pictures) + i for branch in range(2) for i, count in enumerate(pictures) for _ in range(count)])
    ours, theirs = net.empty_memory(), net.empty_memory()
    for _ in range(2):
        net.update_memory(seen, ours, len(pictures), pictures)
        net.update_memory(repeated, theirs, sum(pictures))
    for module, other in zip(ours, theirs, strict=True):
        for block, expected in zip(module, other, strict=True):
            torch.testing.assert_close(block.kv, expected.kv, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(block.z, expected.z, rtol=1e-4, atol=1e-5)


def test_fewer_past_pictures_are_encoded(tiny_nets, frames):
    """Of 16 past frames four, twice (with guidance), and the state holds as many as ever, so that any settings continue it."""
    sizes = []
    hook = tiny_nets.reference_net.register_forward_pre_hook(lambda net, inputs: sizes.append(len(inputs[0])))
    frames(SamplerSettings(steps=1, past_every=4))
    exact, sizes[:] = sizes[:], []
    frames(SamplerSettings(steps=1))
    hook.remove()
    assert (exact, sizes) == ([2, 8, 8], [2, 32, 32])


def test_a_state_of_either_continues_under_the_other(tiny_nets, tiny_vae):
    def last(settings: SamplerSettings, state=None):
        [clip] = sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, speech(16), HAPPY, settings, state=state)
        return clip.state

    exact, thinned = SamplerSettings(steps=1), SamplerSettings(steps=1, past_every=4)
    second = last(thinned, last(thinned))
    assert [len(past) for past in second.past_latents] == [16, 16]
    assert all(torch.equal(second.past_latents[1][i], second.past_latents[1][i // 4 * 4 + 3]) for i in range(16))
    assert last(exact, second).clips == last(thinned, second).clips == 3


def test_the_unconditional_branch_runs_in_every_second_pass(tiny_nets, frames):
    rows = []
    hook = tiny_nets.diffusion_net.register_forward_pre_hook(lambda net, inputs: rows.append(len(inputs[2])))
    frames(SamplerSettings(steps=4, unconditional_every=2), 16)
    together, rows[:] = rows[:], []
    frames(SamplerSettings(steps=4, unconditional_every=2), 16, low_memory=True)
    hook.remove()
    assert (together, rows) == ([32, 16, 32, 16], [16] * 6)


def test_the_conditional_branch_alone_is_that_of_both(tiny_nets, frames):
    """In float64, since the tiny nets, whose weights are random, multiply what rounding does."""
    calls = []
    hook = tiny_nets.diffusion_net.register_forward_pre_hook(lambda net, inputs: calls.append(inputs))
    frames(SamplerSettings(steps=1), 32)
    hook.remove()
    net = copy.deepcopy(tiny_nets.diffusion_net).double()
    latents, sigma, tokens, spatial, emotion, memory, count = in_float64(calls[1])
    alone = ClipConditioning(tokens, spatial, emotion, memory).conditional(count)
    with torch.inference_mode():
        both = net(latents, sigma, tokens, spatial, emotion, memory, count)
        conditional = net(latents, sigma, alone.audio_tokens, alone.spatial, alone.emotion, alone.memory, count)
    torch.testing.assert_close(conditional, both[count:], rtol=1e-9, atol=1e-9)


def in_float64(value):
    if isinstance(value, torch.Tensor):
        return value.double()
    if isinstance(value, tuple | list):
        return type(value)(in_float64(item) for item in value)
    if is_dataclass(value):
        return replace(value, **{field.name: in_float64(getattr(value, field.name)) for field in fields(value)})
    return value


def test_the_last_result_of_the_unconditional_branch_counts_between_its_passes():
    """u of the first pass and c of the second make the second velocity."""

    def net(latents, timestep, tokens, *_, **options):
        branch = torch.tensor([0, 0, 1, 1])[-len(tokens) :]
        return timestep * 0.01 + branch[:, None, None, None]  # u = 10·sigma, c = u + 1

    velocity = GuidedVelocity(
        net, [ClipConditioning(torch.zeros(4, 1, 1), (), (), [])], SamplerSettings(guidance_scale=3.0, unconditional_every=2), 2
    )
    first, second = (velocity(torch.zeros(2, 1, 1, 1), torch.tensor([sigma])) for sigma in (0.2, 0.1))
    assert first.flatten().tolist() == pytest.approx([2 + 3 * 1] * 2)
    assert second.flatten().tolist() == pytest.approx([2 + 3 * (2 - 2)] * 2)


def test_deep_features_of_the_same_pass_change_nothing(tiny_nets, frames):
    """A pass that reuses what it would compute anyway gives the same bits, from three layers."""
    inputs, layers = [], []
    hook = tiny_nets.diffusion_net.register_forward_pre_hook(lambda net, args: inputs.append(args))
    frames(SamplerSettings(steps=1), 16)
    hook.remove()
    hooks = [
        block.resnets[j].register_forward_pre_hook(lambda *_, number=number: layers.append(number))
        for number, (block, j) in enumerate(tiny_nets.diffusion_net.numbered_layers())
    ]
    deep = DeepFeatures()
    with torch.inference_mode():
        plain = tiny_nets.diffusion_net(*inputs[0])
        whole = tiny_nets.diffusion_net(*inputs[0], deep=deep)
        layers.clear()
        reused = tiny_nets.diffusion_net(*inputs[0], deep=deep)
    for each in hooks:
        each.remove()
    last = len(tiny_nets.diffusion_net.numbered_layers()) - 1
    assert torch.equal(plain, whole) and torch.equal(plain, reused)
    assert layers == [0, last - 1, last]


def test_the_whole_net_runs_in_every_second_pass(tiny_nets, frames):
    middle = []
    hook = tiny_nets.diffusion_net.mid_block.resnets[0].register_forward_pre_hook(lambda *_: middle.append(1))
    cheaper = frames(SamplerSettings(steps=4, guidance_scale=1.0, whole_every=2), 16)
    hook.remove()
    assert len(middle) == 2
    exact = frames(SamplerSettings(steps=4, guidance_scale=1.0), 16)
    assert 0 < (cheaper - exact).abs().max() < 0.5


def test_all_together_work_in_both_modes(frames):
    for low_memory in (False, True):
        assert frames(SamplerSettings(**CHEAPER), low_memory=low_memory).isfinite().all()


@pytest.mark.parametrize("name", ["unconditional_every", "past_every", "whole_every"])
def test_settings_of_nothing_are_refused(frames, name):
    with pytest.raises(InputError, match=f"{name}: expected at least 1, got 0"):
        frames(SamplerSettings(**{name: 0}))


@pytest.mark.parametrize("name", ["schedule", "solver"])
def test_unknown_words_are_refused(frames, name):
    with pytest.raises(InputError, match=f"{name}: expected one of .*, got 'best'"):
        frames(SamplerSettings(**{name: "best"}))


def test_exact_changes_nothing():
    assert recipes.apply("exact", SamplerSettings(steps=7)) == SamplerSettings(steps=7)


@pytest.mark.parametrize("guidance_scale", [3.5, 1.0])
@pytest.mark.parametrize("preset", ["fast", "draft"])
def test_presets_make_videos(frames, preset, guidance_scale):
    settings = recipes.apply(preset, SamplerSettings(guidance_scale=guidance_scale, seed=3))
    assert settings.seed == 3 and settings.guidance_scale == guidance_scale
    assert frames(settings, 20).isfinite().all()


def test_turbo_is_the_recipe_of_the_model():
    with pytest.raises(InputError, match="turbo needs a model that was distilled"):
        recipes.apply("turbo", SamplerSettings())
    student = {"steps": 2, "guidance_scale": 1.0, "schedule": "even", "past_every": 4}
    made = recipes.apply("turbo", SamplerSettings(seed=5), student)
    assert asdict(made) == asdict(replace(SamplerSettings(seed=5), **student))


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="preset: expected one of exact, fast, draft, turbo, got 'best'"):
        recipes.apply("best", SamplerSettings())
