"""Emotion over time: one label per second of speech, and the label of each clip.

Seconds are classified from the three around them (the first and the last from two), as in the reference
implementation.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError, InputError
from ..host import SILENT, Host
from ..models.emotion_classifier import EmotionClassifier
from ..models.layers import Layers
from ..models.options import read_options, whole
from ..types import EMOTIONS, Audio, EmotionTrack
from ..weights.checkpoints import CLASSIFIER, SIZE_ERRORS, component_source, load_module
from ..words import first_line
from .emotion2vec import Emotion2Vec
from .features import SAMPLE_RATE
from .io import mono, resample, validate

Result = TypeVar("Result")

_SIZES = {"depth": whole(1, 64)}
"""What the names of a classifier's weights may say; the published one has 5 layers."""


def detect_emotion(
    encoder: Emotion2Vec,
    classifier: EmotionClassifier,
    audio: Audio,
    device: torch.device | str = "cpu",
    host: Host = SILENT,
    name: str = "audio",
) -> EmotionTrack:
    """The emotion of each second of ``audio``, with the classes' probabilities. It is heard in its first channel only, of more than two
    in all of them: speech is in the centre of 5.1.

    Args:
        device: where both networks compute.
        host: gets the progress in segments.
        name: of the audio, in errors.

    Raises:
        InputError: the audio is empty, not finite or shorter than the 25 ms that one state of the encoder needs.
    """
    validate(audio, name, host.check_interrupt)
    heard = mono(audio, host.check_interrupt) if len(audio.waveform) > 2 else Audio(audio.waveform[:1].float(), audio.sample_rate)
    waveform = resample(heard, SAMPLE_RATE, host.check_interrupt).waveform[0]
    shortest = encoder.config.receptive_field
    if len(waveform) < shortest:
        raise InputError(
            f"{name}: {len(waveform) / SAMPLE_RATE:.4f} s is too short to detect an emotion; at least {shortest / SAMPLE_RATE:.4f} s is needed. "
            "Use longer audio or set the emotion by hand."
        )

    def probabilities(segment: Tensor) -> tuple[float, ...]:
        host.check_interrupt()
        states = encoder(normalise(segment).to(device))
        return tuple(classifier.probabilities(states.mean(dim=1))[0].tolist())

    with torch.inference_mode():
        runs = classify_seconds(waveform, SAMPLE_RATE, probabilities, host.progress)
    return EmotionTrack(
        starts=tuple(start for start, _ in runs),
        labels=tuple(p.index(max(p)) for _, p in runs),
        probabilities=tuple(p for _, p in runs),
        samples=len(waveform),
        sample_rate=SAMPLE_RATE,
    )


def normalise(segment: Tensor) -> Tensor:
    """``segment`` (samples) with zero mean and unit variance, as emotion2vec takes it: (1 samples)."""
    return F.layer_norm(segment, segment.shape)[None]


def classify_seconds(
    waveform: Tensor,
    rate: int,
    classify: Callable[[Tensor], Result],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[int, Result]]:
    """First sample and result of each second of ``waveform`` (samples): ``classify`` hears it with the seconds
    before and after it. The last run is the last full second, wherever it starts."""
    samples = len(waveform)
    middles = range(rate, samples - rate, rate)
    segments = [(0, 0, 2 * rate)]
    segments += [(start, start - rate, start + 2 * rate) for start in middles]
    # Up to two seconds, the first and the last segment are both the whole: classified once.
    segments += [(samples - rate, samples - 2 * rate, samples)] if samples > 2 * rate else []
    runs = []
    for done, (start, first, stop) in enumerate(segments, 1):
        runs.append((start, classify(waveform[first:stop])))
        progress(done, len(segments))
    return runs


def constant_emotion(index: int) -> EmotionTrack:
    """One emotion, set by hand, for as long as the video lasts. Raises InputError when EMOTIONS has no ``index``."""
    if not 0 <= index < len(EMOTIONS):
        raise InputError(f"emotion: expected an index from 0 to {len(EMOTIONS) - 1}, got {index}.")
    return EmotionTrack(starts=(0,), labels=(index,), probabilities=None, samples=0, sample_rate=SAMPLE_RATE)


def load_emotion_classifier(place: Path, operations: Any = nn, header_only: bool = False) -> EmotionClassifier:
    """The classifier in ``place``, its folder or a single file, in float32; sizes come from its weights.

    header_only: everything is checked, but the weights stay on the meta device. Raises CheckpointError when the file is
    missing, damaged or of another model.
    """
    source = component_source(place, CLASSIFIER)
    path, weights = source.path, source.read_weights(header_only)
    try:
        sizes = EmotionClassifier.sizes(weights)
    except SIZE_ERRORS as error:
        raise CheckpointError(
            f"{path} is not an emotion classifier: {first_line(error, 200)} is missing or has the wrong shape. "
            "Use the file from misc/audio_emotion_classifier."
        ) from None
    read_options(sizes, _SIZES, str(path))
    if sizes["classes"] != len(EMOTIONS):
        raise CheckpointError(f"{path} distinguishes {sizes['classes']} emotions, but MEMO expects {len(EMOTIONS)}: {', '.join(EMOTIONS)}.")
    return load_module(lambda meta: EmotionClassifier(meta, **sizes), Layers(operations, dtype=torch.float32), weights, path)


def check_fit(encoder: Emotion2Vec, encoder_place: Path, classifier: EmotionClassifier, classifier_place: Path) -> None:
    """Raises CheckpointError when ``classifier`` does not take as many numbers as a state of ``encoder`` has."""
    gives, takes = encoder.config.d, next(classifier.parameters()).shape[1]
    if gives != takes:
        raise CheckpointError(
            f"{encoder_place}: expected {takes} numbers per state, as {classifier_place} takes, got {gives}. "
            "Use emotion2vec_plus_large with MEMO's emotion classifier."
        )
