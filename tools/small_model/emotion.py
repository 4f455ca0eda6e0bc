"""The small model's detection of moods: a narrow emotion2vec and the emotion classifier after it, trained together.

First the encoder alone learns to tell pitch and spectrum from each state, in short pieces: nobody finds the pitch in a
wave by moods alone in a few minutes. Then both learn to tell the mood of two or three seconds of a voice, cut and
normalised as detect_emotion does. The head for pitch and spectrum is thrown away.
"""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from memo_modules.audio.emotion import detect_emotion, load_emotion_classifier, normalise
from memo_modules.audio.emotion2vec import Emotion2Vec, Emotion2VecConfig, load_emotion2vec
from memo_modules.models.emotion_classifier import EmotionClassifier
from memo_modules.models.layers import Layers
from memo_modules.types import EMOTIONS, Audio, clip_label, frame_labels
from tools.small_model.speech import AUDIBLE_MOODS, UNHEARD
from tools.small_world import FPS, MOODS, SAMPLE_RATE, Clip, make_clip

CONFIG = Emotion2VecConfig(
    d=64,
    depth=1,
    prenet_depth=1,
    heads=4,
    d_mlp=128,
    extra_tokens=4,
    conv_layers=((16, 10, 5), (32, 3, 2), (32, 3, 2), (32, 3, 2), (32, 3, 2), (48, 2, 2), (48, 2, 2)),
    front_norm="group_norm",  # emotion2vec_base's: a third of the time of the layer norms of the large one
    conv_pos_depth=2,
    alibi_heads=4,
)
CLASSIFIER_WIDTH = 128

PIECES, SEGMENTS = 4, 8
"""Of a step: pieces of 1 s for pitch and spectrum, segments for moods."""

SHORT = 0.25
"""Share of steps with segments of 2 s, which is what the first and the last second of a voice are heard with; the others
have 3 s."""

HOP = 320
"""Samples between two states."""

BANDS = 12
"""From 100 to 8000 Hz."""

_WINDOW = 640

WEIGHTS = "diffusion_pytorch_model.safetensors"


def train(
    clips: list[Clip], steps: int, seed: int, report: Callable[[str, int, int, float], None] = lambda stage, done, total, loss: None
) -> tuple[Emotion2Vec, EmotionClassifier]:
    """Encoder and classifier after twice ``steps`` steps on the voices of ``clips``. ``report`` gets the stage, steps of it
    done and in all, and the loss: in "acoustics" a mean square, in "moods" the cross-entropy."""
    torch.manual_seed(seed)
    random = np.random.RandomState(seed)
    encoder = Emotion2Vec(CONFIG, Layers(dtype=torch.float32))
    nn.init.normal_(encoder.modality_encoders["AUDIO"].extra_tokens, std=0.02)
    classifier = EmotionClassifier(Layers(dtype=torch.float32), width=CLASSIFIER_WIDTH, d_in=CONFIG.d, classes=len(EMOTIONS))
    head = nn.Linear(CONFIG.d, 1 + BANDS)
    heard = [acoustics(clip.audio) for clip in clips]

    def acoustics_loss() -> tuple[Tensor, float]:
        waves, _, truth, weights = draw_segments(clips, heard, PIECES, 1, random)
        loss = ((head(encoder(waves)) - truth).square() * weights).mean()
        return loss, loss.item()

    def mood_loss() -> tuple[Tensor, float]:
        waves, moods, truth, weights = draw_segments(clips, heard, SEGMENTS, 2 if random.uniform() < SHORT else 3, random)
        states = encoder(waves)
        loss = F.cross_entropy(classifier(states.mean(dim=1)), moods)
        return loss + 0.5 * ((head(states) - truth).square() * weights).mean(), loss.item()

    stages = (("acoustics", [encoder, head], acoustics_loss, 5e-3), ("moods", [encoder, head, classifier], mood_loss, 2e-3))
    for stage, modules, loss_of_step, learning_rate in stages:
        parameters = [parameter for module in modules for parameter in module.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1)
        for step in range(steps):
            loss, told = loss_of_step()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            report(stage, step + 1, steps, told)
    return encoder.requires_grad_(False), classifier.requires_grad_(False)


def acoustics(audio: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pitch and spectrum of each 20 ms of ``audio`` (samples), where the states of emotion2vec are: (t 1+BANDS) octaves
    from 150 Hz, and BANDS levels in units of 15 dB from the mean of all; and weights of the same shape, 0 where there is
    no pitch."""
    padded = np.pad(audio.astype(np.float64), _WINDOW)
    starts = np.arange(0, len(audio) - 400, HOP) + 200 + _WINDOW // 2
    segments = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[starts] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(segments, 2 * _WINDOW, axis=1)) ** 2
    # Divided by the window's own, the autocorrelation of a voice is about as high at one period as at none.
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(_WINDOW), 2 * _WINDOW)) ** 2)
    lags = np.arange(SAMPLE_RATE // 420, SAMPLE_RATE // 75)
    likeness = np.fft.irfft(power, axis=1)
    likeness = likeness[:, lags] / (likeness[:, :1] + 1e-9) / (window[lags] / window[0])
    highest = likeness.max(axis=1, keepdims=True)
    # The first lag that is nearly as good as the best: the others are its multiples; then up to its peak.
    first = (likeness > 0.9 * highest).argmax(axis=1)
    peak = first + np.stack([np.take_along_axis(likeness, np.minimum(first + i, len(lags) - 1)[:, None], 1)[:, 0] for i in range(8)]).argmax(axis=0)
    level = power.sum(axis=1)
    pitched = (highest[:, 0] > 0.7) & (level > 0.01 * level.mean())
    octaves = np.log2(SAMPLE_RATE / lags[np.minimum(peak, len(lags) - 1)] / 150)
    edges = np.geomspace(4, _WINDOW, BANDS + 1).astype(int)
    bands = np.add.reduceat(power, edges[:-1], axis=1)
    decibels = 10 * np.log10(bands / bands.mean() + 1e-5)
    truth = np.concatenate((octaves[:, None], (decibels - decibels.mean()) / 15), axis=1)
    weights = np.concatenate((5.0 * pitched[:, None], np.ones_like(decibels)), axis=1)
    return torch.from_numpy(truth).float(), torch.from_numpy(weights).float()


def draw_segments(
    clips: list[Clip], heard: list[tuple[Tensor, Tensor]], count: int, seconds: int, random: np.random.RandomState
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``count`` parts of ``clips``: (b samples) normalised, the moods in their middles (b), and what was ``heard`` (see
    acoustics) in each state with its weights (b t 1+BANDS)."""
    length = seconds * SAMPLE_RATE
    states = (length - CONFIG.receptive_field) // HOP + 1
    segments, labels, parts = [], [], []
    for _ in range(count):
        i = random.randint(len(clips))
        first = random.randint((len(clips[i].audio) - length) // HOP)
        start = first * HOP
        segments.append(normalise(torch.from_numpy(clips[i].audio[start : start + length])))
        labels.append(int(clips[i].tracks.emotion[(start + length // 2) * FPS // SAMPLE_RATE]))
        parts.append([track[first : first + states] for track in heard[i]])
    return torch.cat(segments), torch.tensor(labels), *(torch.stack(tracks) for tracks in zip(*parts, strict=True))


def write(encoder: Emotion2Vec, classifier: EmotionClassifier, encoder_folder: Path, classifier_folder: Path) -> None:
    """Both in float16: the encoder as model.safetensors, the classifier as diffusers writes it."""
    for module, path in ((encoder, encoder_folder / "model.safetensors"), (classifier, classifier_folder / WEIGHTS)):
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {key: tensor.half().contiguous() for key, tensor in module.state_dict().items()}
        save_file(weights, path, metadata={"format": "pt"})
    config = {"_class_name": "AudioEmotionClassifierModel", "_diffusers_version": "0.31.0"}
    (classifier_folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def judge(encoder_folder: Path, classifier_folder: Path, seed: int, speakers: int = 20, seconds: float = 4.8, words: bool = False) -> dict:
    """How well the written files tell the mood of voices that they never heard, through detect_emotion.

    Returns accuracies in [0, 1]: for each of AUDIBLE_MOODS "second" and "clip" over ``speakers`` clips of ``seconds``; "four moods"
    and "all moods": the means; "changing": share of frames of clips whose mood may change on the way. words: every second voice speaks some.
    """
    encoder, classifier = load_emotion2vec(encoder_folder / "model.safetensors"), load_emotion_classifier(classifier_folder)

    def told(clip: Clip):
        track = detect_emotion(encoder, classifier, Audio(torch.from_numpy(clip.audio)[None], SAMPLE_RATE))
        return track.labels, frame_labels(track, len(clip), Fraction(FPS), "exact")

    first = UNHEARD + (seed << 20) + (1 << 19)
    figures = {}
    for i, mood in enumerate(AUDIBLE_MOODS):
        index, seconds_right, clips_right = EMOTIONS.index(mood), [], []
        for j in range(speakers):
            labels, frames = told(make_clip(first + i * speakers + j, seconds, mood, words=words and j % 2 == 0))
            seconds_right += [label == index for label in labels]
            clips_right.append(clip_label(frames) == index)
        figures[mood] = {"second": float(np.mean(seconds_right)), "clip": float(np.mean(clips_right))}
    for name, moods in (("four moods", MOODS), ("all moods", AUDIBLE_MOODS)):
        figures[name] = {what: float(np.mean([figures[mood][what] for mood in moods])) for what in ("second", "clip")}
    changing = [make_clip(first + len(AUDIBLE_MOODS) * speakers + j, 2 * seconds, words=words and j % 2 == 0) for j in range(speakers)]
    figures["changing"] = {"frame": float(np.mean([np.mean(np.array(told(clip)[1]) == clip.tracks.emotion) for clip in changing]))}
    return figures
