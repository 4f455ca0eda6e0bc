"""The small model's audio models: training lowers their losses, and what is written is what the loaders take."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from memo_modules.audio.emotion import detect_emotion, load_emotion_classifier
from memo_modules.audio.emotion2vec import load_emotion2vec
from memo_modules.audio.features import encode_audio, load_audio_encoder
from memo_modules.store.finding import find
from memo_modules.types import EMOTIONS, Audio
from tools.small_model import audio, emotion, wav2vec2
from tools.small_model.speech import AUDIBLE_MOODS, voices
from tools.small_world import SAMPLE_RATE

STEPS = 14

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips():
    return list(voices(4, seed=0))


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """The folder that everything was written into, the models as they were in memory, and the losses of each stage."""
    models, losses = tmp_path_factory.mktemp("models"), {"mouth": [], "acoustics": [], "moods": []}
    encoder = wav2vec2.train(clips, STEPS, 0, lambda done, total, loss: losses["mouth"].append(loss))
    wav2vec2.write(encoder, models / audio.ENCODER)
    ear = emotion.train(clips, STEPS, 0, lambda stage, done, total, loss: losses[stage].append(loss))
    emotion.write(*ear, models / audio.EMOTION2VEC, models / audio.CLASSIFIER)
    return models, encoder, ear, losses


def sound(clip) -> Audio:
    return Audio(torch.from_numpy(clip.audio)[None], SAMPLE_RATE)


@pytest.mark.parametrize("stage", ["mouth", "acoustics", "moods"])
def test_training_lowers_the_loss(trained, stage):
    losses = trained[-1][stage]
    assert len(losses) == STEPS
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])


def test_the_written_encoder_is_the_trained_one(trained, clips):
    models, encoder, *_ = trained
    loaded = load_audio_encoder(models / audio.ENCODER)
    long = Audio(torch.cat([sound(clip).waveform for clip in clips[:2]], dim=1), SAMPLE_RATE)  # taken in pieces, unlike in training
    expected, found = (encode_audio(e, long, Fraction(30)).hidden_states for e in (encoder, loaded))
    assert found.shape == (480, 2, 96)
    assert (found - expected).abs().max() < 0.03


def test_the_encoder_is_stored_as_transformers_stores_it(trained, clips):
    from transformers import Wav2Vec2Model

    models, encoder, *_ = trained
    published, info = Wav2Vec2Model.from_pretrained(models / audio.ENCODER, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(published.encoder.pos_conv_embed.conv.weight, encoder.encoder.pos_conv_embed.conv.weight, atol=1e-3, rtol=1e-2)


def test_the_written_ear_is_the_trained_one(trained, clips):
    models, _, ear, _ = trained
    loaded = load_emotion2vec(models / audio.EMOTION2VEC / "model.safetensors"), load_emotion_classifier(models / audio.CLASSIFIER)
    assert loaded[0].config == emotion.CONFIG
    expected, found = (np.array(detect_emotion(*pair, sound(clips[1])).probabilities) for pair in (ear, loaded))
    assert found.shape == (8, 9)
    assert np.abs(found - expected).max() < 0.02


def test_the_models_are_found_under_their_names_and_are_small(trained):
    models = trained[0]
    assert set(find("audio_encoder", [models / "audio_encoders"]).found) == {"wav2vec2-small"}
    assert set(find("emotion2vec", [models / "memo"]).found) == {"emotion2vec_small"}
    assert set(find("emotion_classifier", [models / "memo"]).found) == {"small"}
    sizes = {part: sum(path.stat().st_size for path in (models / part).rglob("*.*")) for part in ("audio_encoders", "memo")}
    assert sizes["audio_encoders"] < 1.5e6 and sizes["memo"] < 3e6


def test_targets_are_the_truth_of_each_frame(clips):
    clip = clips[0]
    targets = wav2vec2.targets(clip.audio, len(clip) + 8)
    truth = np.stack((clip.tracks.opening, clip.tracks.width), axis=1)
    told = (targets * wav2vec2.SPREAD + wav2vec2.MEAN).numpy()
    assert len(told) == len(clip) + 8
    assert np.abs(told[: len(clip)] - truth).max() < 0.02
    assert np.abs(told[len(clip) + 4 :, 0]).max() < 0.02  # the padding is silent


def test_a_segment_has_the_mood_of_its_middle(clips):
    before, after = (EMOTIONS.index(mood) for mood in ("sad", "angry"))
    halves = replace(clips[0].tracks, emotion=np.repeat((before, after), len(clips[0]) // 2))
    stepping = replace(clips[0], audio=np.repeat(np.float32((0, 1)), len(clips[0].audio) // 2), tracks=halves)
    segments, labels, *_ = emotion.draw_segments([stepping], [emotion.acoustics(stepping.audio)], 16, 3, np.random.RandomState(0))
    over_the_change = [(segment, label) for segment, label in zip(segments, labels.tolist(), strict=True) if segment.abs().max() > 0]
    assert len(over_the_change) >= 5
    for segment, label in over_the_change:
        assert label == (after if (segment > 0).float().mean() > 0.5 else before)


def test_acoustics_are_pitch_and_spectrum_where_the_states_are():
    seconds = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    low, high = (sum(np.sin(2 * np.pi * pitch * order * seconds) for order in range(1, 20)) for pitch in (150, 300))
    truth, weights = emotion.acoustics(np.where(seconds < 1, low, 0.01 * high))
    state = int(SAMPLE_RATE / emotion.HOP)  # of the first second's end
    assert truth.shape == weights.shape == (2 * state - 1, 1 + emotion.BANDS)
    assert truth[2 : state - 2, 0].abs().max() < 0.05 and weights[2 : state - 2].min() > 0
    assert weights[state + 2 :, 0].max() == 0  # 40 dB below: no voice
    assert truth[: state - 2, 1:].mean() > truth[state + 2 :, 1:].mean() + 1
    truth, weights = emotion.acoustics(high)
    assert (truth[2:-2, 0] - 1).abs().max() < 0.05 and weights[2:-2, 0].min() > 0


def test_every_second_voice_has_the_next_of_the_moods_that_can_be_heard(clips):
    assert [{EMOTIONS[i] for i in clip.tracks.emotion} for clip in clips[1::2]] == [{mood} for mood in AUDIBLE_MOODS[:2]]
    assert not {"other", "unknown"} & set(AUDIBLE_MOODS)


def test_a_seed_means_the_same_weights(clips, tmp_path):
    for name, seed in (("a", 0), ("again", 0), ("other", 1)):
        wav2vec2.write(wav2vec2.train(clips, 1, seed), tmp_path / name)
        emotion.write(*emotion.train(clips, 1, seed), tmp_path / name / "ear", tmp_path / name / "classifier")
    for file in ("model.safetensors", "ear/model.safetensors", f"classifier/{emotion.WEIGHTS}"):
        first, again, other = ((tmp_path / name / file).read_bytes() for name in ("a", "again", "other"))
        assert first == again and first != other
