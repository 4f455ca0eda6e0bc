"""Frames, clips and samples, for any length, frame rate and sample rate: no frame too many, none too few, no sample lost."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memo_modules.audio.emotion import constant_emotion
from memo_modules.audio.features import AudioEncoder, encode_audio, prepare_waveform, upstream_length
from memo_modules.clips import ceil_div, clip_count, frame_count, frame_rate, samples_for_frames
from memo_modules.types import Audio, AudioFeatures, EmotionTrack, clip_label, frame_labels

RATES = [Fraction(24000, 1001), Fraction(2997, 125), Fraction(25), Fraction(30000, 1001), Fraction(2997, 100), Fraction(30), Fraction(60)]
"""23.976, as it is meant and as it is typed, 25, 29.97 likewise, 30, 60."""

SAMPLE_RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000]
HOUR = 3600

fps = st.sampled_from(RATES) | st.fractions(8, 60, max_denominator=1001)
sample_rates = st.sampled_from(SAMPLE_RATES) | st.integers(1_000, 200_000)


@st.composite
def sounds(draw, seconds: int = 2 * HOUR) -> tuple[int, int, Fraction]:
    """Samples, sample rate and frame rate: any length, or a sample around one that frames or seconds fill exactly."""
    rate, frames_per_second = draw(sample_rates), draw(fps)
    whole = st.integers(1, seconds).map(lambda n: n * rate)
    frames = st.integers(1, int(seconds * frames_per_second)).map(lambda n: n * rate / frames_per_second)
    border = (whole | frames.map(math.floor) | frames.map(math.ceil)).flatmap(lambda n: st.sampled_from([n - 1, n, n + 1]))
    return max(1, draw(st.integers(1, seconds * rate) | border)), rate, frames_per_second


@given(sounds())
@example((16000 - 1, 16000, Fraction(30)))
@example((16000 + 1, 16000, Fraction(30)))
@example((4480, 16000, Fraction(25)))  # a frame more in floating point
@settings(max_examples=400, deadline=None)
def test_frames_cover_the_sound_and_none_is_empty(sound):
    samples, rate, frames_per_second = sound
    frames = frame_count(samples, rate, frames_per_second)
    lasts = Fraction(samples, rate)
    assert (frames - 1) / frames_per_second < lasts <= frames / frames_per_second


@given(fps, sample_rates, st.integers(1, 10**6))
@settings(max_examples=200, deadline=None)
def test_whole_frames_are_counted_exactly(frames_per_second, rate, frames):
    """The samples of some frames are those frames again, and with one sample more a frame begins."""
    samples = samples_for_frames(frames, rate, frames_per_second)
    assert frame_count(samples + 1, rate, frames_per_second) == frames + 1
    assert frame_count(samples, rate, frames_per_second) == frames + (samples * frames_per_second > frames * rate)
    assert Fraction(samples - 1, rate) < frames / frames_per_second <= Fraction(samples, rate)


@pytest.mark.parametrize("frames_per_second", RATES, ids=str)
@pytest.mark.parametrize("rate", SAMPLE_RATES)
def test_a_second_and_a_sample_more_or_less(rate, frames_per_second):
    for seconds in (1, 2, 10, 1001, HOUR):
        exact = seconds * frames_per_second
        before, at, after = (frame_count(seconds * rate + more, rate, frames_per_second) for more in (-1, 0, 1))
        assert at == math.ceil(exact)
        # a whole number of frames is left by one sample more, and not by one less; else a sample changes nothing
        assert (before, after) == ((at, at + 1) if exact.denominator == 1 else (at, at))


@given(sounds(), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_longer_sound_never_has_fewer_frames(sound, more):
    samples, rate, frames_per_second = sound
    whole, first, rest = (frame_count(n, rate, frames_per_second) for n in (samples + more, samples, more))
    assert first <= whole <= first + rest


@given(fps)
@settings(max_examples=100, deadline=None)
def test_a_rate_that_went_through_a_float_is_the_same(frames_per_second):
    assert frame_rate(float(frames_per_second)) == frames_per_second
    assert frame_rate(frames_per_second) == frames_per_second


@given(st.floats(8, 60))
@settings(max_examples=300, deadline=None)
def test_any_rate_that_can_be_typed_is_met(typed):
    assert abs(frame_rate(typed) - Fraction(typed)) <= Fraction(1, 1001)
    if typed == round(typed, 2):
        assert float(frame_rate(typed)) == typed


@given(st.integers(1, 10**7), st.integers(1, 64))
@settings(deadline=None)
def test_clips_hold_the_frames_and_none_is_empty(frames, clip_frames):
    clips = clip_count(frames, clip_frames)
    assert (clips - 1) * clip_frames < frames <= clips * clip_frames
    assert ceil_div(frames, clip_frames) == math.ceil(Fraction(frames, clip_frames))


# The waves and the features that come of them: short ones, since every sample is computed

short = sounds(seconds=3).filter(lambda sound: sound[0] * sound[2] >= sound[1])  # a frame or more


@given(short, st.sampled_from(["exact", "upstream"]))
@settings(max_examples=150, deadline=None)
def test_no_sample_is_cut_off_before_it_is_encoded(sound, timing):
    samples, rate, frames_per_second = sound
    waveform = torch.ones(1, samples)
    waveform[:, samples // 2 :] = -1
    prepared, frames = prepare_waveform(Audio(waveform, rate), frames_per_second, 16, timing)
    kept = frame_count(samples, rate, frames_per_second)
    # upstream counts the samples at 16 kHz, of which the last is a partial one: it may be a frame of its own
    assert kept <= frames and frames % 16 == 0 and frames - kept < 16 + (timing == "upstream")
    heard = ceil_div(samples * 16000, rate)
    assert prepared.shape[1] >= heard
    assert not prepared[:, heard:].any()
    if timing == "exact":
        assert prepared.shape[1] == samples_for_frames(frames, 16000, frames_per_second)


@given(st.integers(1, 16000 * HOUR), fps, st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_upstream_counts_a_frame_more_at_most(samples, frames_per_second, clip_frames):
    true = frame_count(samples, 16000, frames_per_second)
    bare, length = upstream_length(samples, frames_per_second, 0)
    assert true <= bare <= true + 1 and length == samples
    padded, length = upstream_length(samples, frames_per_second, clip_frames)
    assert padded == clip_count(bare, clip_frames) * clip_frames and length >= samples


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(
        {
            "model_type": "wav2vec2",
            "conv_dim": [4] * 7,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 8,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        }
    )


@given(sound=short)
@settings(max_examples=40, deadline=None)
def test_features_are_whole_clips_and_know_the_true_count(encoder, one_thread, sound):
    samples, rate, frames_per_second = sound
    heard = encode_audio(encoder, Audio(torch.linspace(-1, 1, samples)[None], rate), frames_per_second)
    assert heard.frame_count == math.ceil(Fraction(samples, rate) * frames_per_second)
    assert len(heard.hidden_states) == clip_count(heard.frame_count) * heard.clip_frames
    assert torch.isfinite(heard.hidden_states).all()


@given(st.integers(1, 200), st.integers(0, 199), st.integers(1, 40))
@settings(deadline=None)
def test_windows_reach_two_frames_to_both_sides(frames, start, length):
    start = min(start, frames - 1)
    stop = min(start + length, frames)
    states = torch.arange(frames, dtype=torch.float32)[:, None, None]
    windows = AudioFeatures(states, Fraction(30), frames, 16).windows(start, stop)[..., 0, 0]
    expected = [[min(max(frame + offset, 0), frames - 1) for offset in range(-2, 3)] for frame in range(start, stop)]
    assert windows.tolist() == expected


@given(st.integers(1, 3000), fps, st.lists(st.integers(1, 400_000), max_size=6), st.sampled_from(["exact", "upstream"]))
@settings(max_examples=200, deadline=None)
def test_every_frame_has_the_mood_of_its_time(frames, frames_per_second, lengths, timing):
    starts = (0, *(sum(lengths[: i + 1]) for i in range(len(lengths))))
    track = EmotionTrack(starts, tuple(range(len(starts))), None, starts[-1] + 16000, 16000)
    labels = frame_labels(track, frames, frames_per_second, timing)
    assert len(labels) == frames and all(first <= second for first, second in pairwise(labels))
    if timing == "exact":
        for frame in (0, frames // 2, frames - 1):
            assert starts[labels[frame]] <= frame * 16000 / frames_per_second
            assert labels[frame] == len(starts) - 1 or frame * 16000 / frames_per_second < starts[labels[frame] + 1]
    assert set(frame_labels(constant_emotion(4), frames, frames_per_second, timing)) == {4}


@given(st.lists(st.integers(0, 8), min_size=1, max_size=64))
@settings(deadline=None)
def test_the_mood_of_a_clip_is_the_most_frequent(labels):
    label = clip_label(labels)
    assert all((labels.count(label), -label) >= (labels.count(other), -other) for other in labels)
