"""Checks of the audio networks and their arithmetic against golden cases; one function per kind."""

import re
from dataclasses import replace

import torch

from memo_modules.audio import emotion, features
from memo_modules.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig
from memo_modules.clips import frame_rate
from memo_modules.models.emotion_classifier import EmotionClassifier
from memo_modules.models.layers import Layers
from memo_modules.types import Audio, EmotionTrack, clip_label, frame_labels
from memo_modules.weights.checkpoints import assign_weights
from tests.helpers.parity_case import Case, assert_close

META = Layers(device="meta")


def check_emotion_classifier(case: Case) -> None:
    weights = case.weights()
    classifier = EmotionClassifier(META, **EmotionClassifier.sizes(weights))
    assign_weights(classifier, weights, case.path)
    assert_close(case, "out.y", classifier.probabilities(case.tensors["in.x"]))


def check_wav2vec(case: Case) -> None:
    with torch.device("meta"):
        encoder = features.AudioEncoder(case.meta["wav2vec2_config"])
    assign_weights(encoder, features.encoder_weights(case.weights()), case.path)
    for run in case.meta["runs"]:
        i, fps, clip_frames = run["index"], frame_rate(run["fps"]), run["num_generated_frames_per_clip"]
        audio = Audio(case.tensors[f"in.{i}.wav"].reshape(1, -1), features.SAMPLE_RATE)
        waveform, frames = features.prepare_waveform(audio, fps, clip_frames, "upstream")
        assert frames == run["audio_length"], f"{case.name} run {i}: {frames} frames, expected {run['audio_length']}"
        assert_close(case, f"out.{i}.wav2vec_input", waveform)
        encoded = features.encode_audio(encoder, audio, fps, clip_frames, "upstream")
        states = encoded.hidden_states
        golden = case.tensors[f"out.{i}.hidden_states"]
        # MEMO does not use the first of them, what enters the first layer.
        assert_close(case, f"out.{i}.hidden_states", torch.cat([golden[:1], states.transpose(0, 1)]))
        assert_close(case, f"out.{i}.audio_emb", encoded.windows(0, frames))


def check_emotion_timeline(case: Case) -> None:
    """The published timeline with its network replaced by arithmetic on the segment (`what` in the JSON)."""

    def label(segment: torch.Tensor) -> int:
        return int(1000 * emotion.normalise(segment).abs().double().mean().item()) % 9

    for run in case.meta["runs"]:
        i, rate, frames = run["index"], run["sample_rate"], run["audio_length_padded"]
        waveform = case.tensors[f"in.{i}.wav_int16"].float() / 32768
        runs = emotion.classify_seconds(waveform, rate, label)
        track = EmotionTrack(tuple(start for start, _ in runs), tuple(found for _, found in runs), None, len(waveform), rate)
        labels = frame_labels(track, frames, frame_rate(run["fps"]), "upstream")
        assert labels == case.tensors[f"out.{i}.labels"].tolist(), f"{case.name} out.{i}.labels differ"
        golden = case.tensors[f"out.{i}.chunk_mode"].tolist()
        size = frames // len(golden)
        modes = [clip_label(labels[start : start + size]) for start in range(0, frames, size)]
        assert modes == golden, f"{case.name} out.{i}.chunk_mode: {modes}, expected {golden}"


def check_emotion2vec(case: Case) -> None:
    weights = case.weights()
    encoder = Emotion2Vec(emotion2vec_config(case), META)
    assign_weights(encoder, {key: weights[key] for key in encoder.state_dict() if key in weights}, case.path)
    for i in range(len(case.meta["lengths"])):
        waveform = emotion.normalise(case.tensors[f"in.{i}.wav"].flatten())
        assert_close(case, f"out.{i}.layer_normed", waveform)
        states = encoder(waveform)
        assert_close(case, f"out.{i}.x", states)
        assert_close(case, f"out.{i}.mean", states.mean(dim=1))


def emotion2vec_config(case: Case) -> Emotion2VecConfig:
    """What the weights show, with what only the case's configuration tells: head count, strides and epsilon."""
    model = case.meta["model_conf"]
    specification = model["modalities"]["audio"]["feature_encoder_spec"]  # "[(512, 10, 5)] + [(512, 3, 2)] * 4 + ..."
    strides = []
    for stride, repeats in re.findall(r"\[\(\d+,\s*\d+,\s*(\d+)\)\](?:\s*\*\s*(\d+))?", specification):
        strides += [int(stride)] * int(repeats or 1)
    config = Emotion2VecConfig.from_weights(case.weights())
    conv_layers = tuple((channels, kernel, stride) for (channels, kernel, _), stride in zip(config.conv_layers, strides, strict=True))
    return replace(config, heads=model["num_heads"], norm_eps=model["norm_eps"], conv_layers=conv_layers)
