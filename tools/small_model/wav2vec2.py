"""The small audio encoder: a narrow wav2vec2 whose states tell what a mouth does.

It learns from the truth of the small world: from the states of every layer, a linear head of its own tells opening and
width of the mouth in each video frame. The heads are thrown away.
"""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from memo_modules.audio.features import AudioEncoder, encode_audio, load_audio_encoder, prepare_waveform
from memo_modules.clips import CLIP_FRAMES
from memo_modules.types import Audio
from tools.small_model.speech import HEARD, UNHEARD, voices
from tools.small_world import FPS, SAMPLE_RATE, Clip, correlation, make_clip, mouth_from_sound
from tools.wav2vec2_config import PREPROCESSOR, config

CONFIG = config(48, 96, 2, architectures=["Wav2Vec2Model"], apply_spec_augment=False, mask_feature_prob=0.0, mask_time_prob=0.0)

WAVES = 4
"""Of a training step, each of a length of its own."""

LEARNING_RATE = 2e-3
TARGETS = ("opening", "width")
MEAN, SPREAD = torch.tensor((0.45, 0.45)), torch.tensor((0.4, 0.15))
"""Of TARGETS over many voices."""


class _Learner(AudioEncoder):
    """AudioEncoder with the convolutions of the whole wave at once: cut in pieces, as for long waves, the first layer's
    statistics let no gradient through."""

    def _convolve(self, waveform, check_interrupt):
        return self.feature_extractor(waveform)


def train(clips: list[Clip], steps: int, seed: int, report: Callable[[int, int, float], None] = lambda done, total, loss: None) -> AudioEncoder:
    """An encoder after ``steps`` steps on the sound of ``clips``. ``report`` gets steps done and in all, and the loss: the
    share of the targets' variance that is not yet told, mean over layers and targets."""
    torch.manual_seed(seed)
    random = np.random.RandomState(seed)
    encoder = _Learner(CONFIG).requires_grad_(True)
    heads = nn.ModuleList(nn.Linear(CONFIG["hidden_size"], len(TARGETS)) for _ in range(CONFIG["num_hidden_layers"]))
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1)
    for step in range(steps):
        total = 0.0
        for _ in range(WAVES):
            waveform = _draw_wave(clips, random)
            inputs, frames = prepare_waveform(Audio(torch.from_numpy(waveform)[None], SAMPLE_RATE), Fraction(FPS), CLIP_FRAMES, "exact")
            truth = targets(waveform, frames)
            states = encoder(inputs, frames)
            loss = torch.stack([F.mse_loss(head(states[:, i]), truth) for i, head in enumerate(heads)]).mean() / WAVES
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(step + 1, steps, total)
    return encoder.requires_grad_(False)


def _draw_wave(clips: list[Clip], random: np.random.RandomState) -> np.ndarray:
    """Float32 (samples): 1.6 to 6 s of a voice; now and then several voices of different loudness in a row, silence at an
    end, or a little noise, since an encoder that normalises over the whole wave hears each of these everywhere."""

    def cut(longest: float = 6) -> np.ndarray:
        audio = clips[random.randint(len(clips))].audio
        length = int(random.uniform(1.6, longest) * SAMPLE_RATE)
        start = random.randint(len(audio) - length)
        return audio[start : start + length]

    kind = random.uniform()
    if kind < 0.2:
        waveform = np.concatenate([cut(4) * 10 ** (random.uniform(-8, 4) / 20) for _ in range(random.randint(2, 6))])
    elif kind < 0.4:
        silence = np.zeros(int(random.uniform(0.2, 2) * SAMPLE_RATE), dtype=np.float32)
        waveform = np.concatenate([silence, cut()] if random.uniform() < 0.5 else [cut(), silence])
    else:
        waveform = cut()
    if random.uniform() < 0.4:
        noise = waveform.std() * 10 ** (random.uniform(-60, -30) / 20)
        waveform = waveform + noise * random.standard_normal(len(waveform))
    return np.clip(waveform, -1, 1).astype(np.float32)


def targets(waveform: np.ndarray, frames: int) -> Tensor:
    """(frames 2): standardised TARGETS of each frame, the padding after the wave as silent as the encoder receives it."""
    padded = np.pad(waveform, (0, max(0, math.ceil(frames * SAMPLE_RATE / FPS) - len(waveform))))
    return (torch.from_numpy(np.stack(mouth_from_sound(padded, frames, FPS), axis=1)) - MEAN) / SPREAD


def write(encoder: AudioEncoder, folder: Path) -> None:
    """``encoder`` in float16 into ``folder``, as wav2vec2 is published: its position convolution with a weight norm."""
    weights = {key: tensor.detach().clone() for key, tensor in encoder.state_dict().items()}
    conv = "encoder.pos_conv_embed.conv"
    direction = weights.pop(f"{conv}.weight")
    weights[f"{conv}.weight_g"] = torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True)
    weights[f"{conv}.weight_v"] = direction
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.half().contiguous() for key, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config.json", CONFIG), ("preprocessor_config.json", PREPROCESSOR)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def judge(folder: Path, seed: int, fitted: int = 60, judged: int = 30, words: bool = False) -> dict:
    """How well the written encoder in ``folder`` tells a mouth by a linear map of single states: the map is fitted to
    ``fitted`` voices of training, and judged on ``judged`` unheard ones and on one of 60 s.

    words: as in voices; the long one speaks some, too. Returns for each layer and target the correlation with
    the truth, "unheard" over all frames, "worst" of a voice, "long" of the 60 s; and "lag", the shift in frames at which the long
    one correlates best.
    """
    encoder = load_audio_encoder(folder)
    fit = [_states(encoder, clip) for clip in voices(fitted, seed, HEARD, words=words)]
    unheard = [_states(encoder, clip) for clip in voices(judged, seed, UNHEARD, words=words)]
    long = _states(encoder, make_clip(UNHEARD + (seed << 20) + judged, 60, words=words))
    figures = {}
    for layer in range(CONFIG["num_hidden_layers"]):
        fitted_states, fitted_truth = (torch.cat(parts) for parts in zip(*((states[:, layer], truth) for states, truth in fit), strict=True))
        decoder = torch.linalg.lstsq(_with_one(fitted_states), fitted_truth).solution
        told = [(_with_one(states[:, layer]) @ decoder, truth) for states, truth in [*unheard, long]]
        for i, target in enumerate(TARGETS):
            pairs = [(a[:, i].numpy(), b[:, i].numpy()) for a, b in told]
            each = [correlation(a, b) for a, b in pairs]
            lags = {lag: correlation(np.roll(pairs[-1][0], -lag)[5:-5], pairs[-1][1][5:-5]) for lag in range(-3, 4)}
            figures[f"layer {layer + 1} {target}"] = {
                "unheard": correlation(*(np.concatenate(parts) for parts in zip(*pairs[:-1], strict=True))),
                "worst": min(each[:-1]),
                "long": each[-1],
                "lag": max(lags, key=lags.get),
            }
    return figures


def _states(encoder: AudioEncoder, clip: Clip) -> tuple[Tensor, Tensor]:
    """States (frames layers d) and truth (frames 2) of a clip, by the way of the workflow."""
    features = encode_audio(encoder, Audio(torch.from_numpy(clip.audio)[None], SAMPLE_RATE), Fraction(FPS))
    return features.hidden_states[: len(clip)], torch.from_numpy(np.stack([getattr(clip.tracks, target) for target in TARGETS], axis=1))


def _with_one(states: Tensor) -> Tensor:
    return F.pad(states, (0, 1), value=1.0)
