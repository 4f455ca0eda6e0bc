"""A video continues where another ended: after a stop, with more audio, after a lead-in."""

from dataclasses import replace

import pytest
import torch

from memo_modules.errors import InputError
from memo_modules.host import Host
from memo_modules.sampler import recipes, solvers
from memo_modules.sampler.noise import NOISES
from memo_modules.sampler.sampling import REPLAYED_CLIPS, SampledClip, sample_video
from memo_modules.types import AudioFeatures, SamplerSettings
from tests.helpers.tiny_video import FACE, FAST, GUIDED, HAPPY, PORTRAIT, speech


@pytest.fixture
def sample(tiny_nets, tiny_vae):
    """Clips of a video for an audio and settings."""

    def make(audio: AudioFeatures, settings=GUIDED, portrait=PORTRAIT, **options) -> list[SampledClip]:
        return list(sample_video(tiny_nets, tiny_vae, portrait, FACE, audio, HAPPY, settings, **options))

    return make


@pytest.fixture(scope="module")
def three_clips(tiny_nets, tiny_vae) -> list[SampledClip]:
    return list(sample_video(tiny_nets, tiny_vae, PORTRAIT, FACE, speech(48), HAPPY, GUIDED))


@pytest.mark.parametrize("made", [1, 2])
@pytest.mark.parametrize("noise", NOISES)
def test_going_on_from_a_state_equals_one_run(sample, three_clips, made, noise):
    settings = replace(GUIDED, noise=noise)
    whole = three_clips if noise == GUIDED.noise else sample(speech(48), settings)
    rest = sample(speech(48), settings, state=whole[made - 1].state, done=made)
    assert len(rest) == 3 - made
    for clip, expected in zip(rest, whole[made:], strict=True):
        assert torch.equal(clip.frames, expected.frames)
        assert torch.equal(clip.state.latents, expected.state.latents)


STUDENT = {"steps": 2, "guidance_scale": 1.0, "schedule": "even", "past_every": 4}


@pytest.mark.parametrize(
    ("preset", "options", "run"),
    [
        ("fast", {"reference_order": "aligned", "noise": "smooth"}, {"lead_in": 1}),
        ("draft", {"noise": "smooth"}, {"solver": solvers.euler, "sigmas": torch.tensor([1.0, 0.4, 0.0])}),
        ("draft", {"guidance_scale": 1.0, "reference_order": "aligned"}, {"lead_in": 1, "low_memory": True}),
        ("turbo", {}, {"solver": solvers.adams_bashforth}),
    ],
)
def test_every_preset_continues_as_one_run(sample, preset, options, run):
    """In two steps each, with another order of references, noise, solver and noise levels, and after a lead-in; and where more audio follows."""
    settings = replace(recipes.apply(preset, SamplerSettings(**options), STUDENT), steps=2)
    whole = sample(speech(21), settings, **run)
    [rest] = sample(speech(21), settings, state=whole[-2].state, done=len(whole) - 1, **run)
    assert torch.equal(rest.frames, whole[-1].frames) and torch.equal(rest.state.latents, whole[-1].state.latents)
    [more] = sample(speech(16), settings, state=rest.state, **run | {"lead_in": 0})
    assert more.frames.isfinite().all() and more.state.clips == len(whole) + 1


def test_what_was_before_is_remembered(sample, three_clips):
    """The third clip depends on frames of the first, of which it sees nothing but the memory."""
    _, second, third = three_clips
    start, frames_of_first = second.state.past_latents
    state = replace(second.state, past_latents=(start, frames_of_first * 0.5))
    [other] = sample(speech(48), state=state, done=2)
    assert (other.frames - third.frames).abs().max() > 1e-4


def test_parts_of_a_voice_make_the_frames_of_the_whole(sample, three_clips):
    """What the second part says at its beginning depends on frames of the voice that lie in the first."""
    first, rest = speech(45).split(2)
    assert (first.clips, first.frame_count, rest.clips, rest.frame_count) == (2, 32, 1, 13)
    begun = sample(first)
    made = begun + sample(rest, replace(GUIDED, seed=7), state=begun[-1].state)
    for clip, expected in zip(made, three_clips, strict=True):
        assert torch.equal(clip.frames, expected.frames[: len(clip.frames)])
    assert len(made[-1].frames) == 13


@pytest.mark.slow
def test_twenty_clips_and_twenty_more_are_forty(sample):
    whole = sample(speech(640))
    first, rest = speech(640).split(20)
    begun = sample(first)
    made = begun + sample(rest, state=begun[-1].state)
    assert torch.equal(torch.cat([clip.frames for clip in made]), torch.cat([clip.frames for clip in whole]))


@pytest.mark.parametrize("clips", [0, 3, 4])
def test_a_part_without_frames_is_refused(clips):
    with pytest.raises(InputError, match="clips: expected 1 to 2, since this audio has 3"):
        speech(45).split(clips)


def test_a_video_that_ended_within_a_clip_continues_after_its_last_frame(sample, tiny_vae):
    """The frames that were sampled after the end of the audio were never seen: nothing remembers them."""
    [ended] = sample(speech(5))
    [next_clip] = sample(speech(16), state=ended.state)
    shown = tiny_vae.encode(ended.frames * 2 - 1)
    torch.testing.assert_close(next_clip.state.past_latents[-1], shown, rtol=0, atol=1e-5)
    later = sample(speech(32), state=next_clip.state, done=1)
    assert len(later) == 1 and later[0].state.clips == 3


def test_a_lead_in_is_sampled_and_not_shown(sample):
    led, plain = sample(speech(20), lead_in=1), sample(speech(20))
    assert [len(clip.frames) for clip in led] == [0, 16, 4] and led[-1].state.clips == 3
    assert torch.equal(led[0].state.latents, plain[0].state.latents)
    past = led[1].state.past_latents
    assert len(past) == 2 and not torch.equal(past[1], past[0]), "the video begins after the frames of the lead-in"
    [resumed] = sample(speech(20), lead_in=1, state=led[1].state, done=2)
    assert torch.equal(resumed.frames, led[2].frames)


def test_progress_counts_what_was_done_before(sample, three_clips):
    events = []
    sample(speech(48), state=three_clips[1].state, done=2, host=Host(lambda *done: events.append(done[:2])))
    assert events == [(3, 3)]


def test_a_state_of_another_video_is_refused(sample, three_clips, tiny_nets):
    state = three_clips[0].state
    with pytest.raises(InputError, match="state: its video is 64 x 64, but this one is 72 x 64"):
        sample(speech(16), portrait=torch.zeros(1, 3, 64, 72), state=state)
    with pytest.raises(InputError, match="state: its clips have 16 frames, but those of the audio have 8"):
        sample(replace(speech(16), clip_frames=8), state=state)
    weight = tiny_nets.diffusion_net.conv_out.weight
    with torch.no_grad():
        weight[0, 0, 0, 0] += 0.01
    try:
        with pytest.raises(InputError, match="state: its video was made with another model"):
            sample(speech(16), state=state)
    finally:
        with torch.no_grad():
            weight[0, 0, 0, 0] -= 0.01
    with pytest.raises(InputError, match="lead_in: expected 0"):
        sample(speech(16), state=state, lead_in=1)


@pytest.mark.slow
def test_a_memory_of_the_last_clips_is_that_of_all(sample):
    """Replaying 24 clips and replaying all of them give the same memory, and the same frames."""
    clips = REPLAYED_CLIPS + 4
    *before, last = sample(speech(16 * clips), FAST)
    everything = tuple(clip.state.past_latents[-1] for clip in before)
    assert len(before[-1].state.past_latents) == REPLAYED_CLIPS < len(everything)
    for past_latents in (before[-1].state.past_latents, everything):
        [again] = sample(speech(16 * clips), FAST, state=replace(before[-1].state, past_latents=past_latents), done=clips - 1)
        torch.testing.assert_close(again.frames, last.frames, rtol=0, atol=1e-6)
