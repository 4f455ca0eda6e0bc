"""Emotion over time: seconds, frames, clips, and the classifier."""

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from memo_modules.audio import emotion
from memo_modules.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig
from memo_modules.errors import CheckpointError, InputError
from memo_modules.host import Host
from memo_modules.models.emotion_classifier import EmotionClassifier
from memo_modules.models.layers import Layers
from memo_modules.types import Audio, EmotionTrack, clip_label, frame_labels

MANIFEST = Path(__file__).resolve().parents[1] / "manifests" / "manifest_emotion_classifier.json"

TINY = Emotion2VecConfig(
    d=32, depth=1, prenet_depth=1, heads=4, alibi_heads=4, d_mlp=32, conv_layers=((8, 10, 5),) + ((8, 3, 2),) * 4 + ((8, 2, 2),) * 2
)


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    classifier = EmotionClassifier(Layers(), depth=2, width=16, d_in=32)
    for layer in classifier.layers:
        torch.nn.init.normal_(layer.weight, std=0.5)  # probabilities far from equal
    return Emotion2Vec(TINY, Layers()).eval(), classifier.eval()


def speech(seconds: float, rate: int = 16000) -> Audio:
    """A hiss that turns into a rumble after two seconds."""
    hiss = torch.randn(1, int(seconds * rate), generator=torch.Generator().manual_seed(7)) * 0.1
    return Audio(torch.cat([hiss[:, : 2 * rate], hiss[:, 2 * rate :].cumsum(dim=1)], dim=1), rate)


def heard(samples: int, rate: int) -> list[tuple[int, tuple[int, int]]]:
    """Start of each run with the span of samples that its label was heard from."""
    return emotion.classify_seconds(torch.arange(float(samples)), rate, lambda segment: (int(segment[0]), int(segment[-1]) + 1))


def test_each_second_is_heard_with_its_neighbours():
    assert heard(450, 100) == [(0, (0, 200)), (100, (0, 300)), (200, (100, 400)), (300, (200, 450)), (350, (250, 450))]
    assert heard(300, 100) == [(0, (0, 200)), (100, (0, 300)), (200, (100, 300))]
    assert heard(201, 100) == [(0, (0, 200)), (100, (0, 201)), (101, (1, 201))]
    for samples in (1, 99, 100, 150, 200):
        assert heard(samples, 100) == [(0, (0, samples))]


def test_detection_gives_labels_probabilities_and_progress(nets):
    audio, calls = speech(3.4), []
    track = emotion.detect_emotion(*nets, audio, host=Host(lambda *done: calls.append(done)))
    assert track.starts == (0, 16000, 32000, 38400) and (track.samples, track.sample_rate) == (54400, 16000)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for label, probabilities in zip(track.labels, track.probabilities, strict=True):
        assert len(probabilities) == 9 and sum(probabilities) == pytest.approx(1) and probabilities[label] == max(probabilities)
    assert track.probabilities[0] != pytest.approx(track.probabilities[3], rel=1e-3)
    segment = audio.waveform[0, 0:48000]
    with torch.inference_mode():
        states = nets[0](((segment - segment.mean()) / segment.std(correction=0))[None])
        expected = nets[1](states.mean(dim=1)).softmax(dim=-1)[0]
    assert track.probabilities[1] == pytest.approx(expected.tolist(), abs=1e-4)


def test_only_the_first_channel_is_heard(nets):
    audio = speech(1.5)
    stereo = Audio(torch.cat([audio.waveform, torch.randn_like(audio.waveform)]), 16000)
    assert emotion.detect_emotion(*nets, stereo) == emotion.detect_emotion(*nets, audio)


def test_of_more_than_two_channels_all_are_heard(nets):
    """Speech is in the centre of 5.1."""
    audio = speech(1.5)
    surround = torch.zeros(6, audio.waveform.shape[1])
    surround[2] = 6 * audio.waveform[0]
    heard, expected = (emotion.detect_emotion(*nets, each) for each in (Audio(surround, 16000), audio))
    assert heard.labels == expected.labels
    assert [pytest.approx(found, abs=1e-4) for found in heard.probabilities] == list(expected.probabilities)


def test_audio_at_another_rate_is_resampled(nets):
    track = emotion.detect_emotion(*nets, speech(2.5, rate=44100))
    assert track.samples == 40000 and track.starts == (0, 16000, 24000)


def test_detection_can_be_interrupted(nets):
    class Cancelled(Exception):
        pass

    def cancel_at_third():
        if len(done) == 2:
            raise Cancelled

    done = []
    with pytest.raises(Cancelled):
        emotion.detect_emotion(*nets, speech(5), host=Host(lambda n, total: done.append(n), cancel_at_third))
    assert done == [1, 2]


@pytest.mark.parametrize(
    "waveform, message",
    [(torch.zeros(1, 399), "too short"), (torch.zeros(1, 0), "empty"), (torch.full((1, 9000), float("nan")), "NaN")],
)
def test_bad_audio_is_refused(nets, waveform, message):
    with pytest.raises(InputError, match=f"audio.*{message}"):
        emotion.detect_emotion(*nets, Audio(waveform, 16000))
    assert emotion.detect_emotion(*nets, Audio(torch.zeros(1, 400), 16000)).samples == 400


TRACK = EmotionTrack(starts=(0, 16000, 24000), labels=(3, 6, 0), probabilities=None, samples=40000, sample_rate=16000)


def test_exact_labels_follow_the_clock():
    labels = frame_labels(TRACK, 80, Fraction(30), "exact")
    assert labels == [3] * 30 + [6] * 15 + [0] * 35
    ntsc = frame_labels(TRACK, 32, Fraction(24000, 1001), "exact")
    assert ntsc == [3] * 24 + [6] * 8  # frame 23 starts at 0.959 s, frame 24 at 1.001 s


def test_upstream_labels_are_stretched_over_the_padding():
    labels = frame_labels(TRACK, 80, Fraction(30), "upstream")
    assert labels == [3] * 32 + [6] * 16 + [0] * 32


def test_upstream_index_is_rounded_as_torch_does():
    samples, frames = 160001, 4801  # its ratio is not exact in float32
    track = EmotionTrack(tuple(range(samples)), tuple(range(samples)), None, samples, 16000)
    scale = torch.tensor(samples / frames, dtype=torch.float32)
    expected = (torch.arange(frames, dtype=torch.float32) * scale).floor().int().tolist()
    found = frame_labels(track, frames, Fraction(480), "upstream")
    assert found == expected
    assert found != [i * samples // frames for i in range(frames)]


@pytest.mark.parametrize("timing", ["exact", "upstream"])
def test_an_emotion_set_by_hand_has_no_end(timing):
    assert frame_labels(emotion.constant_emotion(4), 500, Fraction(25), timing) == [4] * 500


@pytest.mark.parametrize("index", [-1, 9])
def test_an_emotion_that_does_not_exist_is_refused(index):
    with pytest.raises(InputError, match="emotion"):
        emotion.constant_emotion(index)


def test_a_clip_takes_the_most_frequent_label_and_the_smallest_of_equals():
    assert clip_label([7, 7, 2]) == 7
    assert clip_label([7, 2, 7, 2, 8]) == 2


def test_full_size_classifier_has_the_published_keys():
    published = json.loads(MANIFEST.read_text(encoding="utf-8"))["keys"]
    classifier = EmotionClassifier(Layers(device="meta"))
    assert {key: list(value.shape) for key, value in classifier.state_dict().items()} == published


@pytest.mark.parametrize("sizes", [{"depth": 1, "d_in": 12}, {"depth": 2, "width": 7, "d_in": 5}, {"depth": 5, "width": 16, "d_in": 32}])
def test_a_classifier_of_any_depth_loads(tmp_path, sizes):
    torch.manual_seed(0)
    classifier = EmotionClassifier(Layers(), **sizes)
    assert (set(classifier.state_dict()) == {"layers.weight", "layers.bias"}) == (sizes["depth"] == 1)
    save_file(classifier.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    x = torch.randn(3, sizes["d_in"])
    loaded = emotion.load_emotion_classifier(tmp_path)
    assert torch.equal(loaded(x), classifier(x)) and torch.allclose(loaded.probabilities(x).sum(dim=1), torch.ones(3))


def test_bad_classifier_files_are_named(tmp_path):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    with pytest.raises(CheckpointError, match="is missing"):
        emotion.load_emotion_classifier(tmp_path)
    save_file({"proj.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(CheckpointError, match=f"{path.name} is not an emotion classifier"):
        emotion.load_emotion_classifier(tmp_path)
    save_file(EmotionClassifier(Layers(), depth=2, width=4, d_in=4, classes=7).state_dict(), path)
    with pytest.raises(CheckpointError, match="distinguishes 7 emotions"):
        emotion.load_emotion_classifier(tmp_path)
    weights = EmotionClassifier(Layers(), depth=3, width=4, d_in=4).state_dict()
    del weights["layers.fc2.bias"]
    save_file(weights, path)
    with pytest.raises(CheckpointError, match="layers.fc2.bias"):
        emotion.load_emotion_classifier(tmp_path)


def test_an_encoder_of_another_width_than_the_classifier_is_named():
    encoder = SimpleNamespace(config=Emotion2VecConfig(d=768))
    emotion.check_fit(encoder, Path("plus_base"), EmotionClassifier(Layers(device="meta"), d_in=768), Path("classifier"))
    for depth in (1, 5):
        with pytest.raises(CheckpointError, match="^plus_base: expected 1024 numbers per state, as classifier takes, got 768"):
            emotion.check_fit(encoder, Path("plus_base"), EmotionClassifier(Layers(device="meta"), depth=depth), Path("classifier"))
