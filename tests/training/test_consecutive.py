"""Several consecutive clips in a training step: the memory is carried as inference carries it, one clip's graph at a time."""

from dataclasses import replace

import pytest
import torch

from memo_modules.models.motion import MotionModule
from memo_modules.training import objective
from memo_modules.training.draws import Rates, StepDraws, draw_consecutive_steps, draw_step
from memo_modules.training.parameters import set_trainable
from memo_modules.training.regions import direct
from memo_modules.training.schedule import FlowSchedule, TimestepSampling
from tests.helpers.parity_training import train_batch

pytestmark = pytest.mark.usefixtures("one_thread")

NOTHING = Rates(uncond_img=0, uncond_audio=0, emotion_drop=0)


@pytest.fixture
def batch(case) -> objective.TrainingBatch:
    """One sample of two clips, made of the two samples of a golden case."""
    given = train_batch(case)
    return objective.TrainingBatch(
        given.latents.flatten(0, 1)[None],
        given.reference_latents[:1],
        given.face_emb[:1],
        given.audio_emb.flatten(0, 1)[None],
        given.audio_emotion[None],
    )


def draw(nets, batch, clips: int, rates: Rates = NOTHING, seed: int = 0) -> tuple[StepDraws, ...]:
    b, frames, *latent = batch.latents.shape
    drawn = (nets.diffusion_net.emotion_norms, TimestepSampling(), FlowSchedule.make(), rates, torch.Generator().manual_seed(seed))
    return draw_consecutive_steps(clips, (b, frames // clips, *latent), *drawn)


def backward(nets, batch, draws, share: float = 1.0, **options) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of the clips, and gradients of their sum times ``share``."""
    trained = set_trainable(nets)
    for parameter in trained.values():
        parameter.grad = None
    losses = []
    for clip, drawn, pasts in objective.consecutive_clips(nets, batch, draws):
        loss = objective.training_loss(nets, clip, drawn, robust_threshold=None, pasts=pasts, **options).loss
        (loss * share).backward()
        losses.append(loss.item())
    return losses, {name: parameter.grad for name, parameter in trained.items()}


def by_hand(nets, batch, draws) -> list[torch.Tensor]:
    """Velocities of the clips with the memory of inference, each updated from the one before."""
    net, memory, velocities = nets.diffusion_net, nets.diffusion_net.empty_memory(), []
    f = batch.latents.shape[1] // len(draws)
    for k, drawn in enumerate(draws):
        past = batch.reference_latents[0, 1:] if k == 0 else batch.latents[0, k * f - 2 : k * f]
        face = nets.image_proj(batch.face_emb)
        with torch.no_grad():
            net.update_memory(nets.reference_net(past, face.expand(2, -1, -1)), memory, 2)
        frames = slice(k * f, (k + 1) * f)
        velocities.append(
            net(
                objective.add_noise(batch.latents[:, frames], drawn)[0],
                drawn.timesteps,
                nets.audio_proj(batch.audio_emb[0, frames]),
                net.spatial_contexts(face, nets.reference_net(batch.reference_latents[:, 0], face)),
                net.emotion_modulations(batch.audio_emotion[:, k], torch.float32),
                list(memory),
                f,
                lambda module, *args: module(*args) if isinstance(module, MotionModule) else direct(module, *args),
            )[None]
        )
    return velocities


def test_the_second_clip_remembers_what_inference_would(nets, batch):
    draws = draw(nets, batch, 2)
    with torch.no_grad():
        found = [
            objective.predict_velocity(nets, clip, drawn, objective.add_noise(clip.latents, drawn), pasts=pasts)
            for clip, drawn, pasts in objective.consecutive_clips(nets, batch, draws)
        ]
        alone = objective.predict_velocity(nets, batch.clip(1, 2), draws[1], objective.add_noise(batch.latents[:, 4:], draws[1]))
        expected = by_hand(nets, batch, draws)
    for velocity, value in zip(found, expected, strict=True):
        torch.testing.assert_close(velocity, value, rtol=0, atol=1e-5)
    assert (alone - expected[1]).abs().max() > 1e-3, "without the memory of the first clip it is another"


def test_the_gradient_of_two_clips_is_the_mean_of_theirs(nets, batch):
    draws = draw(nets, batch, 2)
    losses, found = backward(nets, batch, draws, share=1 / 2)
    trained = set_trainable(nets)
    for parameter in trained.values():
        parameter.grad = None
    errors = [
        (drawn.noise - batch.latents[:, rows] - velocity) * drawn.sigmas  # of the clean latents
        for velocity, drawn, rows in zip(by_hand(nets, batch, draws), draws, (slice(0, 4), slice(4, 8)), strict=True)
    ]
    expected = [error.square().mean() for error in errors]
    torch.stack(expected).mean().backward()
    assert losses == pytest.approx([loss.item() for loss in expected], rel=1e-5)
    scale = max(parameter.grad.abs().max() for parameter in trained.values())
    assert max((found[name] - parameter.grad).abs().max() for name, parameter in trained.items()) < 1e-5 * scale


def test_one_clip_and_the_first_of_two_are_the_published_step(nets, batch):
    one = batch.clip(0, 2)
    draws = draw(nets, batch, 2, Rates(uncond_audio=0.5))
    losses, found = backward(nets, one, draws[:1])
    trained = set_trainable(nets)
    for parameter in trained.values():
        parameter.grad = None
    result = objective.training_loss(nets, one, draws[0], robust_threshold=None)
    result.loss.backward()
    assert all(torch.equal(found[name], parameter.grad) for name, parameter in trained.items())
    assert [result.loss.item()] == losses == backward(nets, batch, draws)[0][:1]


def test_past_frames_are_the_last_of_the_clip_before_at_most_all_of_it(batch):
    latents, reference = torch.arange(6.0).view(1, 6, 1, 1, 1), torch.tensor([9.0, -3, -2, -1]).view(1, 4, 1, 1, 1)
    whole = replace(batch, latents=latents, reference_latents=reference, audio_emotion=torch.tensor([[4, 5, 6]]))
    assert [whole.clip(k, 3).audio_emotion.tolist() for k in range(3)] == [[4], [5], [6]]
    assert whole.clip(1, 3).latents.flatten().tolist() == [2, 3]
    found = [whole.clip(k, 3).reference_latents.flatten().tolist() for k in range(3)]
    assert found == [[9, -3, -2, -1], [9, 0, 1], [9, 2, 3]], "clips of two frames, and three past frames"
    assert [whole.clip(k, 2).reference_latents.flatten().tolist() for k in range(2)] == [[9, -3, -2, -1], [9, 0, 1, 2]]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_there_is_one_graph_at_a_time(nets, batch, checkpointing):
    class Kept:
        """A tensor that a graph holds."""

        now = most = 0

        def __init__(self, tensor):
            self.tensor = tensor
            Kept.now += tensor.nbytes
            Kept.most = max(Kept.most, Kept.now)

        def __del__(self):
            Kept.now -= self.tensor.nbytes

    most = []
    for clips in (1, 2):
        Kept.now = Kept.most = 0
        sample = batch if clips == 2 else batch.clip(0, 2)
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            backward(nets, sample, draw(nets, sample, clips), checkpointing=checkpointing)
        most.append(Kept.most)
    assert most[1] < 1.05 * most[0]


def test_one_set_of_pictures_goes_through_all_clips_and_the_rest_is_drawn_anew(nets, batch):
    rates = Rates(uncond_img=0.5, uncond_audio=0.5, unconditional=0.5, face_drop=0.5)
    wide = replace(batch, latents=batch.latents.expand(16, -1, -1, -1, -1))
    first, second = draw(nets, wide, 2, rates)
    b, _, *latent = wide.latents.shape
    alone = draw_step(
        (b, 4, *latent), nets.diffusion_net.emotion_norms, TimestepSampling(), FlowSchedule.make(), rates, torch.Generator().manual_seed(0)
    )
    assert all(torch.equal(value, getattr(alone, name)) for name, value in vars(first).items())
    same = {name for name, value in vars(first).items() if torch.equal(value, getattr(second, name))}
    assert same == {"uncond_img", "unconditional", "face_drop"} and 0 < first.uncond_img.sum() < 16
