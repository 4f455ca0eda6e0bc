"""Checks of the training objective, the optimizer step and the data set against golden cases; one function per kind."""

import json
import os
from pathlib import Path

import pytest
import torch
from einops import rearrange

from memo_modules.errors import InputError
from memo_modules.sampler.sampling import MemoNets
from memo_modules.training import dataset, objective, parameters
from memo_modules.training.draws import PictureDraws, StepDraws
from memo_modules.training.schedule import FlowSchedule, TimestepSampling
from memo_modules.types import clip_label
from memo_modules.vae import DiffusersVAE
from tests.helpers.parity_case import Case, assert_close
from tests.helpers.parity_nets import Exact, audio_projection, diffusion_net, image_projection, reference_net

PREDICTION, LOSS, GRADIENT, NORM, TOTAL_NORM = 5e-5, 1e-5, 2e-4, 2e-4, 1e-5
"""Limits, relative to the tensor's largest value; norms each to itself, where above NEGLIGIBLE of the largest."""

NEGLIGIBLE = 1e-6
GOLDEN = Path(os.environ.get("MEMO_GOLDEN_TRAINING_DIR") or Path(__file__).resolve().parents[1] / "golden_training")
EMOTION_DROP = 0.3
TRAINABLE = {"default": parameters.MOTION_AND_AUDIO, "all": dict.fromkeys(("reference_net", "diffusion_net", "image_proj", "audio_proj"))}


def load_nets(case: Case) -> MemoNets:
    nets = (reference_net(case, Exact(), "reference_net"), diffusion_net(case, Exact(), "diffusion_net"))
    projections = (image_projection(case, "image_proj"), audio_projection(case, "audio_proj"))
    return MemoNets(*nets, *projections, torch.device("cpu"), torch.float32)


def load_vae(case: Case) -> DiffusersVAE:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**case.options("vae")).eval().requires_grad_(False)
    vae.load_state_dict(case.weights("vae"))
    return DiffusersVAE(vae, batch=4)


def param_names(case: Case, trainable: str) -> list[str]:
    """Names in the order of the golden norms."""
    return [name for name, _ in param_shapes(case, trainable)]


def param_shapes(case: Case, trainable: str) -> list[list]:
    return json.loads((case.folder / case.meta["param_names_file"]).read_text(encoding="utf-8"))[trainable]


def frames_first(x: torch.Tensor) -> torch.Tensor:
    return rearrange(x, "b c f h w -> b f c h w")


def published(x: torch.Tensor) -> torch.Tensor:
    return rearrange(x, "b f c h w -> b c f h w")


def train_batch(case: Case, prefix: str = "in.") -> objective.TrainingBatch:
    given = dict(case.tensors)
    place = prefix if f"{prefix}latents" in given else "out."  # a case from pixels tells what they became
    b = len(given[f"{prefix}audio_emotion"])
    return objective.TrainingBatch(
        frames_first(given[f"{place}latents"]),
        given[f"{place}ref_image_latents"].unflatten(0, (b, -1)),
        *(given[f"{prefix}{name}"] for name in ("face_emb", "audio_emb", "audio_emotion")),
    )


def train_draws(case: Case, options: dict, norms: int, prefix: str = "in.") -> StepDraws:
    given = case.tensors
    timesteps, sigmas, noise = (given.get(f"{prefix}{name}", given.get(f"out.{name}")) for name in ("timesteps", "sigmas", "noise"))
    b = len(timesteps)
    _, uncond_img, uncond_audio = given.get("out.flags", torch.tensor([False, options["uncond_img"], options["uncond_audio"]])).bool()
    rand = given.get("out.label_rand", torch.ones(norms, b))
    assert (options["label_drop"] and len(rand) == norms) or "out.label_rand" not in given
    return StepDraws(timesteps, sigmas, frames_first(noise), uncond_img.expand(b), uncond_audio.expand(b), rand < EMOTION_DROP)


def check_encoding(case: Case) -> None:
    """A case that starts from pixels: the VAE's posteriors, and the past frames of a video's start."""
    given = case.tensors
    b, f = given["in.pixel_values"].shape[:2]
    draws = PictureDraws(
        torch.full((b,), case.meta["options"]["start_frame"]),
        torch.zeros(b, dtype=torch.bool),
        given["in.eps_target"].unflatten(0, (b, f)),
        given["in.eps_ref"].unflatten(0, (b, -1)),
        torch.zeros(b),
        torch.zeros(1),
    )
    batch = objective.encode_batch(load_vae(case), {key.removeprefix("in."): value for key, value in given.items()}, draws)
    assert_close(case, "out.latents", published(batch.latents), PREDICTION)
    assert_close(case, "out.ref_image_latents", batch.reference_latents.flatten(0, 1), PREDICTION)


def assert_norms(case: Case, name: str, found: torch.Tensor) -> None:
    expected = case.tensors[name]
    assert found.shape == expected.shape
    assert torch.equal(found == 0, expected == 0), f"{case.name} {name}: not the same ones are exactly zero"
    relative = ((found - expected).abs() / expected)[expected > NEGLIGIBLE * expected.max()]
    assert not relative.numel() or relative.max() <= NORM, f"{case.name} {name}: {relative.max():.2e}, limit {NORM:.0e}"


def assert_near(case: Case, name: str, found: torch.Tensor, limit: float) -> None:
    """assert_close, and exact zeros where the golden tensor is zero throughout."""
    if case.tensors[name].any():
        assert_close(case, name, found, limit)
    else:
        assert not found.any(), f"{case.name} {name}: expected zeros"


def check_train_loss(case: Case, checkpointing: bool = False) -> None:
    given, options = case.tensors, case.meta["options"]
    if "in.eps_ref" in given:
        check_encoding(case)
    nets = load_nets(case)
    trained = parameters.set_trainable(nets, TRAINABLE[options["trainable"]])
    batch, draws = train_batch(case), train_draws(case, options, nets.diffusion_net.emotion_norms)
    noisy = objective.add_noise(batch.latents, draws)
    velocity = objective.predict_velocity(nets, batch, draws, noisy, checkpointing)
    weighting = TimestepSampling(options["weighting_scheme"])
    threshold = objective.ROBUST_THRESHOLD if options["robust"] else None
    result = objective.flow_loss(velocity, noisy, batch.latents, draws.sigmas, weighting, threshold)
    result.loss.backward()

    fixed = "fixed." if case.meta["has_fixed"] else ""  # what each sample gives by itself; the published batch mixes them
    for name, value in (("noisy_latents", noisy), ("x0_pred", noisy - draws.sigmas.view(-1, 1, 1, 1, 1) * velocity.detach())):
        if f"out.{name}" in given and not (fixed and name == "x0_pred"):
            assert_close(case, f"out.{name}", published(value), PREDICTION)
    assert_close(case, f"out.{fixed}model_pred", published(velocity.detach()), PREDICTION)
    assert_near(case, f"out.{fixed}loss", result.loss.detach()[None], LOSS)
    assert_close(case, f"out.{fixed}loss_weighted", result.weighted, LOSS)
    if not fixed:
        assert_close(case, "out.loss_per_sample", result.per_sample, LOSS)
    expected_mask = (given[f"out.{fixed}loss_weighted"] > objective.ROBUST_THRESHOLD).float().mean() if options["robust"] else 0
    assert result.mask_rate == expected_mask

    names = param_names(case, options["trainable"])
    assert {name: list(parameter.shape) for name, parameter in trained.items()} == dict(param_shapes(case, options["trainable"]))
    assert all(trained[name].grad is not None for name in names)
    if not fixed:
        assert_norms(case, "out.grad_norms", torch.stack([trained[name].grad.norm() for name in names]))
        if "out.grad_is_none" in given:
            assert not given["out.grad_is_none"].any()
    for name in given:
        if name.startswith(f"out.{fixed}grad."):
            assert_near(case, name, trained[name.removeprefix(f"out.{fixed}grad.")].grad, GRADIENT)


def check_train_step(case: Case) -> None:
    options, given = case.meta["options"], case.tensors
    stated, lr = case.meta["optimizer"], case.meta["options"]["lr"]
    settings = parameters.OptimizerSettings(lr, betas=tuple(stated["betas"]), weight_decay=stated["weight_decay"], eps=stated["eps"])
    nets = load_nets(case)
    trained = parameters.set_trainable(nets)
    names = param_names(case, "default")
    ordered = [trained[name] for name in names]
    optimizer = parameters.make_optimizer(ordered, settings)
    for k, step in enumerate(options["steps"]):
        before = {name: parameter.detach().clone() for name, parameter in trained.items()}
        batch = train_batch(case, f"in.s{k}.")
        draws = train_draws(case, step, nets.diffusion_net.emotion_norms, f"in.s{k}.")
        threshold = objective.ROBUST_THRESHOLD if step["robust"] else None
        result = objective.training_loss(nets, batch, draws, TimestepSampling(step["weighting_scheme"]), threshold)
        result.loss.backward()
        unclipped = {name: trained[name].grad.clone() for name in trained if f"out.s{k}.clipped_grad.{name}" in given}
        report = parameters.optimizer_step(optimizer, ordered, stated["max_grad_norm"])
        assert report.stepped
        assert_near(case, f"out.s{k}.loss", result.loss.detach()[None], LOSS)
        assert_close(case, f"out.s{k}.loss_weighted", result.weighted, LOSS)
        assert_near(case, f"out.s{k}.total_grad_norm", torch.tensor([report.grad_norm]), TOTAL_NORM)
        for name, gradient in unclipped.items():
            factor = min(1, stated["max_grad_norm"] / (report.grad_norm + 1e-6))
            assert_near(case, f"out.s{k}.clipped_grad.{name}", gradient * factor, GRADIENT)
        norms = torch.stack([optimizer.state[parameter]["exp_avg"].norm() for parameter in ordered])
        assert_norms(case, f"out.s{k}.update_norms", norms)
        assert_deltas(case, f"out.s{k}.delta.", trained, before, lr)
    for name, parameter, expected in zip(names, ordered, given["out.param_sum_after"], strict=True):
        found = parameter.detach().sum()
        assert (found - expected).abs() <= 0.1 * lr * parameter.numel() ** 0.5 + 1e-6 * parameter.abs().sum(), f"{case.name} sum of {name}"


def assert_deltas(case: Case, prefix: str, trained: dict, before: dict, lr: float) -> None:
    """Movements of one step: within a tenth of the learning rate, 99.9 % of them within 0.03."""
    found = {name.removeprefix(prefix): expected for name, expected in case.tensors.items() if name.startswith(prefix)}
    errors = torch.cat([((trained[name].detach() - before[name]) - expected).abs().flatten() for name, expected in found.items()]) / lr
    assert errors.max() <= 0.1, f"{case.name} {prefix}: {errors.max():.3f} of the learning rate"
    assert (errors <= 0.03).float().mean() >= 0.999, f"{case.name} {prefix}: {(errors > 0.03).float().mean():.2%} beyond 0.03 of the learning rate"


def check_timesteps(case: Case) -> None:
    options, given = case.meta["options"], case.tensors
    scheduler = options["scheduler_kwargs"]
    schedule = FlowSchedule.make(scheduler["num_train_timesteps"], scheduler.get("shift", 1.0))
    assert_close(case, "out.scheduler.timesteps", schedule.timesteps, 1e-7)
    assert_close(case, "out.scheduler.sigmas", schedule.sigmas, 1e-7)
    for scheme in ("logit_normal", "mode", "sigma_sqrt", "cosmap"):
        sampling = TimestepSampling(scheme, options["logit_mean"], options["logit_std"], options["mode_scale"])
        u = sampling.draw(options["batch"], torch.Generator().manual_seed(options["seed"]))
        timesteps, sigmas = schedule.at(u)
        assert torch.equal((u * scheduler["num_train_timesteps"]).long(), given[f"out.{scheme}.indices"])
        for name, value in (("u", u), ("timesteps", timesteps), ("sigmas", sigmas), ("loss_weights", sampling.weights(sigmas))):
            assert_close(case, f"out.{scheme}.{name}", value, 1e-6)


def check_dataset_indices(case: Case) -> None:
    for row in [*case.meta["rows"], *case.meta["emotion_ties"]]:
        sizes = (row["n_sample_frames"], row["num_past_frames"], row["audio_margin"])
        if row["num_past_frames"] < row["audio_margin"]:  # published windows wrap to the end of the video
            with pytest.raises(InputError):
                dataset.ClipLayout(*sizes)
            continue
        layout = dataset.ClipLayout(*sizes)
        starts = layout.starts(row["video_length"])
        assert [starts[0], starts[-1]] == row["start_range_inclusive"] == row["ref_range_inclusive"]
        found = dataset.clip_indices(layout, row["start_idx"], row["ref_index"], row["motion_perturbed"], row["audio_perturbed"])
        assert list(found.frames) == row["frame_indices"]
        assert list(found.past) == row["past_indices"]
        assert found.reference == row["ref_index"]
        assert found.windows.tolist() == row["audio_window_indices"]
        assert clip_label(row["emotion_labels_of_clip"]) == row["emotion"]
    assert case.meta["drop_rate"] == dataset.PERTURBATION_RATE
    for name, minimum in case.meta["minimum_length"].items():
        sizes = [int(part.split("=")[1]) for part in name.split(",")]
        if sizes[1] >= sizes[2]:
            assert dataset.ClipLayout(*sizes).shortest_video == minimum["smallest_video_length"]


def check_dataset_pixels(case: Case) -> None:
    for part in case.meta["cases"]:
        frames = case.tensors[f"in.{part['index']}"]
        height, width = part["out_shape"][-2:]
        resized = dataset.covering_size(*frames.shape[-2:], height, width)
        if height == width:
            assert list(resized) == part["resized_hw"]
        elif list(resized) != part["resized_hw"]:
            continue  # published, width and height of other shapes change places between resize and crop
        assert_close(case, f"out.{part['index']}", dataset.training_pixels(frames, height, width), 1e-6)
