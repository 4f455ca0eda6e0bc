"""Distillation: what the teacher makes, what the student is asked for, and that it learns it."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from memo_modules.errors import CheckpointError, InputError
from memo_modules.models.config import DiffusionNetConfig
from memo_modules.sampler.solvers import even_sigmas
from memo_modules.training.assembly import load_vae, make_trainer
from memo_modules.training.distillation import DistilSettings, TrajectoryBatch, distillation_loss, trajectory
from memo_modules.training.draws import StepDraws
from memo_modules.training.settings import read_settings
from memo_modules.weights.checkpoints import net_source
from memo_modules.weights.lora import read_lora
from tests.helpers.training_world import write_training

DISTIL = {"steps": 2, "teacher_steps": 4, "guidance_scale": 2.0, "trajectories": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory, one_thread):
    return write_training(tmp_path_factory.mktemp("distil"), distil=DISTIL, robust_threshold=None, steps=12, save_every=12)


def trainer(world, output, *overrides, resume=None):
    settings = read_settings(world, [f"output_dir={output}", *overrides])
    return make_trainer(settings, Accelerator(cpu=True), load_vae(settings, torch.device("cpu")), resume)


def batch_of(made) -> TrajectoryBatch:
    batch, _, _ = made._next_batch()
    return batch


def test_the_teacher_steps_as_the_sampler_does_under_guidance(world, tmp_path):
    """Four Euler steps by hand on the velocity of both branches, of which every second latents are kept."""
    made = trainer(world, tmp_path / "out")
    batch, nets, settings = batch_of(made), made.nets, made.settings.distil
    noise = batch.trajectory[:, 0]
    kept = trajectory(nets, batch, noise, settings)
    assert kept.shape[1] == settings.steps + 1 and torch.equal(kept[:, 0], noise)
    torch.testing.assert_close(kept, batch.trajectory, atol=2e-2, rtol=1e-2)  # which was stored in 16 bits
    unguided = trajectory(nets, batch, noise, replace(settings, guidance_scale=1.0))
    assert (unguided - kept)[:, 1:].abs().max() > 1e-3
    finer = trajectory(nets, batch, noise, replace(settings, steps=4))
    assert torch.equal(finer[:, ::2], kept)


def test_a_student_that_steps_as_the_teacher_has_no_loss(world, tmp_path):
    """Without guidance, and with as many steps, teacher and student are the same net."""
    made = trainer(world, tmp_path / "out", "distil.guidance_scale=1.0", "distil.teacher_steps=2")
    batch = batch_of(made)
    for sigma in (1.0, 0.7, 0.5, 0.2, 0.001):
        sigmas = torch.full((len(batch.latents),), sigma)
        draws = StepDraws(sigmas * 1000, sigmas, sigmas, *[torch.zeros(1, dtype=torch.bool)] * 3)
        assert distillation_loss(made.nets, batch, draws).loss < 2e-4
        wrong = replace(batch, trajectory=batch.trajectory.flip(1))
        assert distillation_loss(made.nets, wrong, draws).loss > 0.1


def test_a_level_of_noise_is_chosen_by_the_drawn_sigma(world, tmp_path, monkeypatch):
    made, asked = trainer(world, tmp_path / "out"), []
    monkeypatch.setattr(
        "memo_modules.training.distillation.predict_velocity",
        lambda nets, batch, draws, noisy, *_: asked.append((draws.sigmas.tolist(), noisy)) or torch.zeros_like(noisy),
    )
    batch = batch_of(made)
    for sigma, level in ((1.0, 0), (0.51, 0), (0.49, 1), (0.001, 1)):
        sigmas = torch.full((len(batch.latents),), sigma)
        distillation_loss(made.nets, batch, StepDraws(sigmas, sigmas, sigmas, *[torch.zeros(1, dtype=torch.bool)] * 3))
        levels, noisy = asked.pop()
        assert levels == [even_sigmas(2)[level]] * len(sigmas) and torch.equal(noisy, batch.trajectory[:, level])


def test_the_student_learns_and_brings_its_recipe_along(world, tmp_path):
    made = trainer(world, tmp_path / "out", "optimizer.learning_rate=1e-3", "optimizer.warmup_steps=1")
    batch = batch_of(made)

    @torch.no_grad()
    def loss() -> float:
        levels = [torch.full((len(batch.latents),), sigma) for sigma in (1.0, 0.25)]
        nothing = [torch.zeros(1, dtype=torch.bool)] * 3
        return sum(float(distillation_loss(made.nets, batch, StepDraws(each, each, each, *nothing)).loss) for each in levels)

    before = loss()
    made.run(lambda log: None, lambda folder: None, lambda: False)
    assert loss() < 0.92 * before
    config = net_source(tmp_path / "out" / "checkpoint-12", "diffusion_net").read_config()
    assert config["recipe"] == {"steps": 2, "guidance_scale": 1.0, "schedule": "even", "solver": "euler", "past_every": 4}


def test_a_student_can_be_a_lora(world, tmp_path):
    made = trainer(world, tmp_path / "out", "lora={rank: 2}", "steps=1", "save_every=1")
    made.run(lambda log: None, lambda folder: None, lambda: False)
    assert read_lora(tmp_path / "out" / "checkpoint-1" / "lora.safetensors").recipe["steps"] == 2


def test_trajectories_are_made_once(world, tmp_path, monkeypatch):
    """And a training that is resumed with weights that have changed since has those of its teacher."""
    made = trainer(world, tmp_path / "out", "steps=2", "save_every=1")
    made.run(lambda log: None, lambda folder: None, lambda: False)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trajectories").iterdir()}
    assert len(files) == DISTIL["trajectories"]
    monkeypatch.setattr("memo_modules.training.distillation.trajectory", lambda *_: pytest.fail("made again"))
    again = trainer(world, tmp_path / "out", "steps=2", "save_every=1", resume="latest")
    assert again.counters.step == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "trajectories").iterdir()} == files


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "distil.steps: expected at least 1, got 0"),
        ({"steps": 3, "teacher_steps": 20}, "distil.teacher_steps: expected a multiple of distil.steps, which is 3, got 20"),
        ({"guidance_scale": -1.0}, "distil.guidance_scale: expected a number from 0 to 100, got -1.0"),
        ({"guidance_scale": float("nan")}, "distil.guidance_scale"),
        ({"trajectories": 0}, "distil.trajectories: expected at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        DistilSettings(**values)


def test_consecutive_clips_are_refused(world):
    with pytest.raises(InputError, match="data.clips_per_sample: expected 1 with distil, got 2"):
        read_settings(world, ["data.clips_per_sample=2"])


def test_a_recipe_that_cannot_be_is_refused():
    with pytest.raises(CheckpointError, match="recipe: steps: expected a whole number from 1 to 1000"):
        DiffusionNetConfig.from_dict({"recipe": {"steps": 10**9}}, "config.json")
