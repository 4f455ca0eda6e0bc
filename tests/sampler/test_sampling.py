"""The sampler on the tiny nets: clips, memory, guidance, progress, and what it keeps alive."""

import gc
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from memo_modules.audio.emotion import constant_emotion
from memo_modules.errors import InputError
from memo_modules.host import Host
from memo_modules.sampler import preview
from memo_modules.sampler.footprint import Footprint
from memo_modules.sampler.sampling import sample_video
from memo_modules.types import AudioFeatures, Face, SamplerSettings
from memo_modules.vae import DiffusersVAE
from tests.helpers.tiny_video import FACE, FAST, GUIDED, HAPPY, PORTRAIT, SIZE, speech


@pytest.fixture
def video(tiny_nets, tiny_vae):
    """Frames of a video (f 3 h w) for an audio and settings."""

    def make(audio: AudioFeatures, settings: SamplerSettings = FAST, **options) -> torch.Tensor:
        clips = sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, audio, HAPPY, settings, **options)
        return torch.cat([clip.frames for clip in clips])

    return make


class Calls:
    """The inputs of every call of a module, while it is entered; lists, which keep changing, as they were."""

    def __init__(self, module: torch.nn.Module):
        self.module, self.inputs = module, []

    def __enter__(self) -> list[tuple]:
        self.hook = self.module.register_forward_pre_hook(self._keep)
        return self.inputs

    def __exit__(self, *_) -> None:
        self.hook.remove()

    def _keep(self, module: torch.nn.Module, inputs: tuple) -> None:
        self.inputs.append(tuple(list(value) if isinstance(value, list) else value for value in inputs))


def memories(calls: list[tuple]) -> list[list[torch.Tensor]]:
    """The tensors of the motion memory that each call of the diffusion net was given."""
    return [[tensor for module in inputs[5] for block in module for tensor in (block.kv, block.z)] for inputs in calls]


def live_bytes() -> int:
    """Bytes of all tensors that Python reaches and gc.freeze has not set aside, each storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


@pytest.mark.parametrize("frames", [1, 15, 16, 17])
def test_frames_are_cut_to_the_audio(video, frames):
    pictures = video(speech(frames))
    assert pictures.shape == (frames, 3, SIZE, SIZE)
    assert pictures.dtype == torch.float32 and pictures.min() >= 0 and pictures.max() <= 1
    assert pictures.std() > 0.05


def test_a_seed_means_the_same_frames(video):
    """The noise comes from one generator on the CPU, drawn from once per clip in the layout (1 c f h w)."""
    frames = video(speech(32))
    generator = torch.Generator().manual_seed(FAST.seed)
    drawn = [torch.randn(1, 4, 16, 8, 8, generator=generator)[0].transpose(0, 1) for _ in range(2)]
    assert torch.equal(video(speech(32), replace(FAST, seed=43), noise=lambda clip: drawn[clip]), frames)
    other = video(speech(32), replace(FAST, seed=43))
    assert (other[:16] - frames[:16]).abs().max() > 0.01


@pytest.mark.parametrize(("guidance_scale", "rows"), [(3.5, 32), (1.0, 16), (0.5, 16)])
def test_guidance_of_one_and_below_runs_one_half(tiny_nets, video, guidance_scale, rows):
    with Calls(tiny_nets.diffusion_net) as calls:
        frames = video(speech(16), SamplerSettings(steps=2, guidance_scale=guidance_scale))
    assert [(inputs[0].shape, len(inputs[2])) for inputs in calls] == [((16, 4, 8, 8), rows)] * 2, "latents, which branches share, and audio"
    assert frames.isfinite().all()


def test_guidance_is_followed(video):
    weak, strong = (video(speech(16), replace(GUIDED, guidance_scale=scale)) for scale in (1.5, 6.0))
    assert (weak - strong).abs().max() > 0.01


def test_face_audio_and_emotion_are_seen(tiny_nets, tiny_vae, video):
    audio = speech(16)
    frames = video(audio)
    others = (
        (Face(-FACE.embedding, None, 0.0), audio, HAPPY),
        (FACE, replace(audio, hidden_states=-audio.hidden_states), HAPPY),
        (FACE, audio, constant_emotion(6)),
    )
    for case in others:
        [clip] = sample_video(tiny_nets, tiny_vae, PORTRAIT, *case, FAST)
        assert (clip.frames - frames).abs().max() > 1e-3


def test_reference_orders_differ(video):
    upstream, aligned = (video(speech(16), replace(GUIDED, reference_order=order)) for order in ("upstream", "aligned"))
    assert (upstream - aligned).abs().max() > 1e-3


def test_constant_parts_are_computed_once(tiny_nets, video):
    """The portrait is encoded once for each face context; of each later clip its past frames, whatever the steps."""
    with Calls(tiny_nets.reference_net) as pictures, Calls(tiny_nets.image_proj) as faces, Calls(tiny_nets.audio_proj) as voices:
        video(speech(32), replace(GUIDED, steps=2))
    assert [len(inputs[0]) for inputs in pictures] == [2, 32]
    assert len(faces) == 1 and len(voices) == 2


def test_progress_and_interrupt_come_with_every_step(video, monkeypatch):
    monkeypatch.setattr(preview, "EVERY", 0)
    events, clips = [], []
    video(
        speech(20),
        replace(FAST, steps=3),
        host=Host(lambda *done: events.append(done), lambda: events.append("check"), clip_done=lambda *clip: clips.append(clip)),
    )
    reports = [event for event in events if event != "check"]
    assert [(done, total) for done, total, _ in reports] == [(done, 6) for done in range(1, 7)]
    small, large = (3, SIZE // 8, SIZE // 8), (3, SIZE, SIZE)
    assert [tuple(picture.shape) for *_, picture in reports] == [small, small, large] * 2
    assert [(tuple(frames.shape), fps) for frames, fps in clips] == [((16, *large), 30), ((4, *large), 30)]
    # a check comes before each step: after the report of the step before, or first of all
    assert events[0] == "check"
    assert [event for event, following in pairwise(events) if following == "check"] == reports[:-1]


def test_interrupt_stops_before_the_next_step(tiny_nets, video):
    class Stop(Exception):
        pass

    def check_interrupt():
        if len(calls) == 2:
            raise Stop

    with Calls(tiny_nets.diffusion_net) as calls, pytest.raises(Stop):
        video(speech(32), replace(FAST, steps=5), host=Host(check_interrupt=check_interrupt))
    assert len(calls) == 2


class CountingVAE:
    """A VideoVAE that writes down how many pictures it is given."""

    def __init__(self, vae: DiffusersVAE):
        self.vae, self.counts = vae, []

    def encode(self, images):
        self.counts.append(len(images))
        return self.vae.encode(images)

    def decode(self, latents):
        self.counts.append(len(latents))
        return self.vae.decode(latents)


def test_vae_gets_all_pictures_of_a_clip(tiny_nets, tiny_vae):
    """It knows how many of them it can take at once."""
    counting = CountingVAE(tiny_vae)
    list(sample_video(tiny_nets, counting, PORTRAIT, FACE, speech(32), HAPPY, FAST))
    assert counting.counts == [1, 16, 16, 16]


@pytest.mark.parametrize("batch", [3, 16])
def test_vae_batches_do_not_change_the_frames(tiny_vae, batch):
    pictures = torch.rand(5, 3, SIZE, SIZE) * 2 - 1
    latents = tiny_vae.encode(pictures)
    batched = DiffusersVAE(tiny_vae.autoencoder, batch)
    assert torch.allclose(batched.encode(pictures), latents, atol=1e-5)
    assert torch.allclose(batched.decode(latents), tiny_vae.decode(latents), atol=1e-5)


def test_memory_of_the_first_clip_does_not_depend_on_noise(tiny_nets, video):
    with Calls(tiny_nets.diffusion_net) as calls:
        for seed in (1, 2):
            video(speech(32), replace(FAST, seed=seed))
    first, second, first_again, second_again = memories(calls)
    assert all(torch.equal(a, b) for a, b in zip(first, first_again, strict=True))
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(second, second_again, strict=True))


def test_fewer_initial_past_frames_are_another_memory(tiny_nets, video):
    with Calls(tiny_nets.diffusion_net) as calls:
        for frames in (16, 2):
            video(speech(16), replace(FAST, num_init_past_frames=frames))
    many, few = memories(calls)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(many, few, strict=True))


@pytest.mark.parametrize("guidance_scale", [3.5, 1.0])
def test_footprint_is_the_size_of_a_memory(tiny_nets, video, guidance_scale):
    with Calls(tiny_nets.diffusion_net) as calls:
        video(speech(16), replace(GUIDED, guidance_scale=guidance_scale))
    [memory] = memories(calls)
    settings = SamplerSettings(guidance_scale=guidance_scale)
    assert Footprint(tiny_nets.diffusion_net.config, (8, 8), settings, itemsize=4).motion_memory == sum(tensor.nbytes for tensor in memory)


@pytest.mark.parametrize("clips", [4, pytest.param(19, marks=pytest.mark.slow)])
def test_memory_use_is_constant(tiny_nets, tiny_vae, clips):
    """In the middle of each clip from the third on, as many bytes are alive, but for the latents in the state."""
    alive = []
    hook = tiny_nets.diffusion_net.register_forward_pre_hook(lambda *_: alive.append(live_bytes()))
    gc.freeze()  # all that was there before, which would only cost time
    try:
        sampled = sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, speech(16 * clips - 4), HAPPY, FAST)
        past_latents = [clip.state.past_latents[0].nbytes for clip in sampled]
    finally:
        gc.unfreeze()
        hook.remove()
    assert min(alive) > 0 and len(alive) == len(past_latents) == clips
    assert {later - earlier for earlier, later in pairwise(alive[2:])} <= {0, past_latents[0]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"num_init_past_frames": 0}, "num_init_past_frames: expected at least 1"),
        ({"num_past_frames": 0}, "num_past_frames: expected at least 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale: expected a number, got nan"),
        ({"reference_order": "sideways"}, "reference_order: expected one of .*upstream.*aligned"),
        ({"noise": "pink"}, "noise: expected one of .*independent.*smooth"),
    ],
)
def test_impossible_settings_are_named(video, settings, message):
    with pytest.raises(InputError, match=message):
        video(speech(16), replace(FAST, **settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_frames": 33, "hidden_states": torch.zeros(33, 2, 64)}, "audio: its clips have 33 frames, but this model makes at most 32"),
        ({"hidden_states": torch.zeros(16, 3, 64)}, "audio: the audio encoder gives 960 numbers .* takes 640"),
    ],
)
def test_audio_that_does_not_fit_the_model_is_named(video, change, message):
    with pytest.raises(InputError, match=message):
        video(replace(speech(16), **change))
