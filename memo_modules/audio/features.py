"""wav2vec2 states at video rate: what the lips follow.

The encoder is transformers' Wav2Vec2Model with one change by MEMO (and Hallo before it): the output of the
convolutions is interpolated from 50 per second to one per video frame before the transformer sees it.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..clips import CLIP_FRAMES, clip_count, frame_count, samples_for_frames
from ..errors import CheckpointError, InputError, MissingPackageError
from ..types import TIMINGS, Audio, AudioFeatures
from ..weights.checkpoints import SIZE_ERRORS, Source, assign_weights
from ..weights.checks import PICKLES, REPAIR, check_numbers, check_shapes, pickle_fault, raise_fault
from ..weights.fingerprints import audio_digest
from ..words import first_line, quoted
from .encoder_config import EncoderConfig
from .io import listened
from .levelling import levelled

SAMPLE_RATE = 16000

CONTEXT_CLIPS = 8
"""Clips (4.3 s at 30 fps) of what was said before that are heard together with audio that continues it."""

_CHUNK = 125
"""Convolution outputs (2.5 s) made at a time: the first layer alone would take 4 GB for ten minutes."""

_ROWS = 1024
"""Frames that go through layers at a time which look at each by itself, or at its neighbours."""

_CHANNELS = 16
"""Channels that are interpolated at a time, each over all frames: what is computed is the same to the bit."""

_SAMPLES = 2**24
"""Samples (17 minutes) of the wave that are normalised at a time: a tenth of a second."""

_PAIRS, _PAIRS_ON_A_CARD = 2**22, 2**28
"""Pairs of frames of which a layer takes up the attention at a time: some tenths of a second. The memory of it is flat, too."""

_HEARD = 18_000
"""Frames (ten minutes at 30 fps) that a frame hears at most, those around it: of what is longer all would take time that grows with its square, a
day for three hours on a CPU. wav2vec2 was trained on seconds."""

_LEAST_ROWS = 8
"""Frames that a layer takes up at a time at least."""


class AudioEncoder(nn.Module):
    """wav2vec2 (post-norm, as wav2vec2-base) giving the states of every layer at video rate.

    config: what its config.json says. Weight norm of the position convolution is folded, so that every weight
    is a plain parameter of a plain layer; see ``encoder_weights``. Raises CheckpointError for an unsupported option.
    """

    def __init__(self, config: EncoderConfig | dict):
        super().__init__()
        try:
            from transformers import Wav2Vec2Config, Wav2Vec2Model
        except ImportError as error:
            raise MissingPackageError(f"The audio encoder needs transformers ({error}): pip install transformers") from error
        if isinstance(config, dict):
            config = EncoderConfig.from_dict(config, "The audio encoder's config.json")
        try:
            model = Wav2Vec2Model._from_config(Wav2Vec2Config(**config.for_transformers()), attn_implementation="sdpa")
        except Exception as error:  # transformers' errors have no common base
            reason = first_line(error)
            raise CheckpointError(f"The audio encoder's config.json does not describe a model that can be built ({reason}). {REPAIR}") from error
        self.feature_extractor: Any = model.feature_extractor  # transformers' modules, whose classes differ between its versions
        self.feature_projection: Any = model.feature_projection
        self.encoder: Any = model.encoder
        normed = self.encoder.pos_conv_embed.conv
        self.encoder.pos_conv_embed.conv = nn.Conv1d(
            normed.in_channels, normed.out_channels, normed.kernel_size, padding=normed.padding, groups=normed.groups
        )
        self.group_norm = config.feat_extract_norm == "group"
        self.stride, self.receptive_field, self.channels = config.stride, config.receptive_field, config.conv_dim[-1]
        self.eval()

    def forward(self, waveform: Tensor, frames: int, check_interrupt: Callable[[], None] = lambda: None) -> Tensor:
        """States (frames layers d) of ``waveform`` (1 samples), 16 kHz, zero mean and unit variance, spread over
        ``frames`` video frames: float32 on the CPU, since an hour of them takes 4 GB. ``check_interrupt`` is called
        several times a second and may raise."""
        features = self._convolve(waveform, check_interrupt)
        features = _interpolated(features, frames, check_interrupt).transpose(1, 2)  # 1 f c
        hidden_states = self._embed(features, check_interrupt)
        states = torch.empty(frames, len(self.encoder.layers), hidden_states.shape[-1])
        # transformers 4 and 5 disagree on how the states of all layers are asked for: so the layers are walked here.
        for i, layer in enumerate(self.encoder.layers):
            hidden_states = _through_layer(layer, hidden_states, states[:, i], check_interrupt)
        return states

    def _embed(self, features: Tensor, check_interrupt: Callable[[], None]) -> Tensor:
        """What goes into the first layer (1 f d) of features (1 f c) at video rate, in chunks, each with its neighbours."""
        frames = features.shape[1]
        projected = _by_rows(lambda rows: self.feature_projection(rows)[0], features, check_interrupt)
        position, out = self.encoder.pos_conv_embed, torch.empty_like(projected)
        reach = position.conv.kernel_size[0] // 2
        for rows in _spans(frames, _ROWS, check_interrupt):
            first = max(0, rows.start - reach)
            places = position(projected[:, first : rows.stop + reach])[:, rows.start - first :][:, : rows.stop - rows.start]
            out[:, rows] = self.encoder.layer_norm(projected[:, rows] + places)
        return out

    def _convolve(self, waveform: Tensor, check_interrupt: Callable[[], None]) -> Tensor:
        """Output (1 c t) of the convolutions, in chunks: equal to the whole at once but for rounding."""
        total = (waveform.shape[-1] - self.receptive_field) // self.stride + 1
        first, *rest = self.feature_extractor.conv_layers
        if self.group_norm:
            mean, variance = self._first_layer_statistics(waveform, check_interrupt)
        out = waveform.new_empty(1, self.channels, total)
        for part in _spans(total, _CHUNK, check_interrupt):
            x = waveform[:, None, part.start * self.stride : (part.stop - 1) * self.stride + self.receptive_field]
            if self.group_norm:
                norm = first.layer_norm
                x = F.batch_norm(first.conv(x), mean, variance, norm.weight, norm.bias, eps=norm.eps)
                x = first.activation(x)
            else:
                x = first(x)
            for layer in rest:
                x = layer(x)
            out[..., part] = x
        return out

    def _first_layer_statistics(self, waveform: Tensor, check_interrupt: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Mean and variance (c) over all of the first convolution's output, merged chunk by chunk.

        The published encoder normalises each channel of it over the whole wave.
        """
        conv = self.feature_extractor.conv_layers[0].conv
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        total = (waveform.shape[-1] - kernel) // stride + 1
        step = _CHUNK * self.stride // stride

        def chunks() -> Iterator[tuple[int, Tensor, Tensor]]:
            for part in _spans(total, step, check_interrupt):
                chunk = conv(waveform[:, None, part.start * stride : (part.stop - 1) * stride + kernel])
                yield part.stop - part.start, *torch.var_mean(chunk, dim=(0, 2), correction=0)

        return _merged(chunks())


def _merged(parts: Iterable[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and variance of all values, of (how many, variance, mean) of each part of them."""
    seen, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for n, variance, part_mean in parts:
        seen, distance = seen + n, part_mean - mean
        mean = mean + distance * (n / seen)
        squares = squares + n * variance + distance**2 * (n * (seen - n) / seen)
    return mean, squares / seen


def _interpolated(features: Tensor, frames: int, check_interrupt: Callable[[], None]) -> Tensor:
    """Features (1 c t) at video rate, (1 c f)."""
    channels = features.shape[1]
    out = features.new_empty(1, channels, frames)
    for some in _spans(channels, _CHANNELS, check_interrupt):
        out[:, some] = F.interpolate(features[:, some], size=frames, mode="linear", align_corners=True)
    return out


def _by_rows(layer: Callable[[Tensor], Tensor], states: Tensor, check_interrupt: Callable[[], None]) -> Tensor:
    """What a layer that looks at each frame by itself makes of states (1 f d), _ROWS of them at a time."""
    frames = states.shape[1]
    out: Tensor | None = None
    for rows in _spans(frames, _ROWS, check_interrupt):
        made = layer(states[:, rows])
        out = made.new_empty(1, frames, made.shape[-1]) if out is None else out
        out[:, rows] = made  # not joined at the end, which takes a second for hours
    assert out is not None, "there are frames"
    return out


def _spans(frames: int, rows: int, check_interrupt: Callable[[], None]) -> Iterator[slice]:
    for start in range(0, frames, rows):
        check_interrupt()
        yield slice(start, min(start + rows, frames))


def _through_layer(layer: Any, hidden_states: Tensor, states: Tensor, check_interrupt: Callable[[], None]) -> Tensor:
    """What a layer of transformers' encoder (post-norm) makes of hidden states (1 f d), also written into ``states`` (f d): each
    frame looks at all of them, up to _HEARD, a part of the frames at a time, so that hours can be interrupted."""
    frames, attention = hidden_states.shape[1], layer.attention

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # 1 f (h d) -> 1 h f d

    keys, values = (heads(_by_rows(project, hidden_states, check_interrupt)) for project in (attention.k_proj, attention.v_proj))
    out = torch.empty_like(hidden_states)
    pairs = _PAIRS if hidden_states.device.type == "cpu" else _PAIRS_ON_A_CARD
    heard = min(frames, _HEARD)
    at_once = min(_ROWS, max(_LEAST_ROWS, pairs // heard // _LEAST_ROWS * _LEAST_ROWS))
    for block in _spans(frames, _ROWS, check_interrupt):  # whose frames hear the same, however many are taken up at a time
        first = max(0, min(block.start + (_ROWS - heard) // 2, frames - heard))
        some_keys, some_values = (each[:, :, first : first + heard] for each in (keys, values))
        for start in range(block.start, block.stop, at_once):
            check_interrupt()
            rows = slice(start, min(start + at_once, block.stop))
            asking = hidden_states[:, rows]
            found = F.scaled_dot_product_attention(heads(attention.q_proj(asking)), some_keys, some_values)
            asking = layer.layer_norm(asking + attention.out_proj(found.transpose(1, 2).flatten(-2)))
            out[:, rows] = layer.final_layer_norm(asking + layer.feed_forward(asking))
            states[rows] = out[0, rows]  # waits for a GPU, which would run ahead of whoever interrupts
    return out


def encoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a wav2vec2 checkpoint that AudioEncoder holds, under its names: prefix and heads dropped, weight
    norm of the position convolution (``weight_g``/``weight_v`` or torch's parametrization) folded into a weight."""
    weights = {key.removeprefix("wav2vec2."): value for key, value in weights.items()}
    kept = {key: value for key, value in weights.items() if key.startswith(("feature_extractor.", "feature_projection.", "encoder."))}
    conv = "encoder.pos_conv_embed.conv"
    for magnitude, direction in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        if f"{conv}.{magnitude}" in kept and f"{conv}.{direction}" in kept:
            g, v = kept.pop(f"{conv}.{magnitude}").float(), kept.pop(f"{conv}.{direction}").float()
            # of a header the shape alone; the norm of what has no values would have torch import its compiler, which takes seconds
            norm = v.sum((0, 1), keepdim=True) if v.is_meta else torch.linalg.vector_norm(v, dim=(0, 1), keepdim=True)
            kept[f"{conv}.weight"] = v * (g / norm)
    return kept


def encoder_source(place: Path) -> Source:
    """The audio encoder in the folder ``place``: config.json and model.safetensors or the older pytorch_model.bin."""
    safetensors, pickled = place / "model.safetensors", place / "pytorch_model.bin"
    return Source(pickled if pickled.exists() and not safetensors.exists() else safetensors, place / "config.json")


def encoder_config(source: Source) -> EncoderConfig:
    """Its config. Raises CheckpointError when it is missing, damaged or of another model."""
    config = source.read_config()
    if config.get("model_type") != "wav2vec2":
        found = quoted(config.get("model_type"))
        raise CheckpointError(f"{source.name_of_config}: model_type is {found}, expected 'wav2vec2'. Use wav2vec2-base-960h.")
    return EncoderConfig.from_dict(config, source.name_of_config)


def check_audio_encoder(place: Path) -> None:
    """Raises CheckpointError when header and config tell that it cannot be loaded. A pickle is not opened, and
    transformers is not imported."""
    source = encoder_source(place)
    config = encoder_config(source)
    if source.path.suffix in PICKLES:
        raise_fault(pickle_fault(source.path))
        return
    _fitting_weights(source, config, header_only=True)


def _fitting_weights(source: Source, config: EncoderConfig, header_only: bool = False) -> dict[str, Tensor]:
    """The weights of the encoder in ``source``. Raises CheckpointError when they are not those of a model of ``config``."""
    weights = source.read_weights(header_only)
    key = "feature_projection.projection.weight"
    if not weights.keys() & {key, f"wav2vec2.{key}"}:
        raise CheckpointError(f"{source.path} is not a wav2vec2 model: {key!r} is missing. Use wav2vec2-base-960h.")
    check_numbers({key: tensor for key, tensor in weights.items() if ".pos_conv_embed." in key}, source.path)  # before they are folded
    try:
        weights = encoder_weights(weights)
    except SIZE_ERRORS as error:
        raise CheckpointError(f"{source.path}: its position convolution has the wrong shape ({error}). {REPAIR}") from error
    check_shapes(weights, config.shapes(), source.path, AudioEncoder.__name__)
    check_numbers(weights, source.path)
    return weights


def load_audio_encoder(place: Path) -> AudioEncoder:
    """The audio encoder in ``place`` (see encoder_source), in float32.

    Raises CheckpointError naming the file that is missing, damaged or of another kind.
    """
    source = encoder_source(place)
    config = encoder_config(source)
    weights = _fitting_weights(source, config)
    with torch.device("meta"):
        encoder = AudioEncoder(config)
    assign_weights(encoder, weights, source.path)
    return encoder


def encode_audio(
    encoder: AudioEncoder,
    audio: Audio,
    fps: Fraction,
    clip_frames: int = CLIP_FRAMES,
    timing: str = "exact",
    device: torch.device | str = "cpu",
    check_interrupt: Callable[[], None] = lambda: None,
    previous: Audio | None = None,
    level: bool = False,
) -> AudioFeatures:
    """wav2vec2 states of ``audio`` (any channels and sample rate), one per video frame, on the CPU.

    Args:
        timing: "exact" follows the audio to the sample; "upstream" pads and stretches as the reference implementation.
        device: where ``encoder`` computes.
        check_interrupt: called several times a second; may raise.
        previous: what ``audio`` continues: its last seconds are heard with it.
        level: even out how loud the voice is over time first, see ``levelled``, which the reference implementation does not.

    Raises:
        InputError: the audio is empty, not finite or shorter than a frame.
    """
    whole, heard = audio, 0
    if previous is not None:
        whole, heard = _with_end_of(previous, audio, fps, clip_frames, check_interrupt)
    if level:
        whole = levelled(whole, check_interrupt)
    waveform, frames = prepare_waveform(whole, fps, clip_frames, timing, check_interrupt)
    with torch.inference_mode():
        states = encoder(waveform.to(device), frames, check_interrupt)
    kept = frame_count(audio.waveform.shape[1], audio.sample_rate, fps)
    return AudioFeatures(states[heard:], fps, kept, clip_frames, timing, heard=_heard(audio, previous, level, check_interrupt))


def _heard(audio: Audio, previous: Audio | None, level: bool, check_interrupt: Callable[[], None]) -> str:
    """Digest of all sound that a video is made of; fps, timing and frames are told separately."""
    digests = [audio_digest(each, check_interrupt) for each in (audio, previous) if each is not None]
    return hashlib.sha256(" ".join([*digests, *(["level"] if level else [])]).encode()).hexdigest()


def _with_end_of(previous: Audio, audio: Audio, fps: Fraction, clip_frames: int, check_interrupt: Callable[[], None]) -> tuple[Audio, int]:
    """``audio`` after the last whole clips of ``previous``, CONTEXT_CLIPS at most, and the frames that these are."""
    own, rate = listened(audio, audio.sample_rate, check_interrupt=check_interrupt).waveform, audio.sample_rate
    _check_length(audio, fps)
    before = listened(previous, rate, "previous_audio", check_interrupt).waveform
    clips = min(CONTEXT_CLIPS, int(before.shape[1] * fps / rate) // clip_frames)
    samples = samples_for_frames(clips * clip_frames, rate, fps)
    return Audio(torch.cat([before[:, before.shape[1] - samples :], own], dim=1), rate), clips * clip_frames


def _check_length(audio: Audio, fps: Fraction) -> None:
    samples, rate = audio.waveform.shape[1], audio.sample_rate
    if samples * fps < rate:
        raise InputError(
            f"audio is shorter than one frame: {samples} samples at {rate} Hz; at {float(fps):g} fps a frame takes {float(rate / fps):g}. "
            "Use longer audio."
        )


def prepare_waveform(
    audio: Audio, fps: Fraction, clip_frames: int, timing: str, check_interrupt: Callable[[], None] = lambda: None
) -> tuple[Tensor, int]:
    """What goes into the encoder: the wave (1 samples) at 16 kHz, mono, normalised over its own length and then
    padded with zeros (its mean), and the number of frames it stands for, whole clips."""
    if timing not in TIMINGS:
        raise InputError(f"timing: expected one of {', '.join(TIMINGS)}, got {quoted(timing)}.")
    waveform = listened(audio, SAMPLE_RATE, check_interrupt=check_interrupt).waveform
    _check_length(audio, fps)
    samples, rate = audio.waveform.shape[1], audio.sample_rate
    if timing == "exact":
        frames = clip_count(frame_count(samples, rate, fps), clip_frames) * clip_frames
        length = samples_for_frames(frames, SAMPLE_RATE, fps)
    else:
        frames, length = upstream_length(waveform.shape[1], fps, clip_frames)
    return _normalised(waveform, length, check_interrupt), frames


def encode_frames(encoder: AudioEncoder, audio: Audio, frames: int, fps: Fraction, device: torch.device | str = "cpu") -> Tensor:
    """wav2vec2 states (frames layers d) of ``audio`` that goes with ``frames`` of a video, float32 on the CPU.

    It is cut, or filled up with silence, to their length, and never stretched. Raises InputError when it is empty or not
    finite.
    """
    length = samples_for_frames(frames, SAMPLE_RATE, fps)
    waveform = listened(audio, SAMPLE_RATE).waveform[:, :length]
    with torch.inference_mode():
        return encoder(_normalised(waveform, length).to(device), frames)


def _normalised(waveform: Tensor, length: int, check_interrupt: Callable[[], None] = lambda: None) -> Tensor:
    """The wave (1 samples) with zero mean and unit variance, then padded with zeros, its mean, to ``length``."""

    def parts() -> Iterator[tuple[int, Tensor, Tensor]]:
        for part in _spans(waveform.shape[1], _SAMPLES, check_interrupt):
            variance, mean = torch.var_mean(waveform[:, part], correction=0)
            yield part.stop - part.start, variance.double(), mean.double()

    mean, variance = (each.float() for each in _merged(parts()))
    out = torch.zeros(1, length)
    for part in _spans(waveform.shape[1], _SAMPLES, check_interrupt):
        out[:, part] = (waveform[:, part] - mean) / torch.sqrt(variance + 1e-7)
    return out


def upstream_length(samples: int, fps: Fraction, clip_frames: int) -> tuple[int, int]:
    """Padded frames and padded samples of 16 kHz audio as the reference implementation counts them.

    In floating point, so that some lengths (4480 samples at 25 fps) gain a frame; and padded by whole numbers of
    samples per frame, so that the wave ends before the frames do, which then stretch it. Without a positive
    ``clip_frames`` nothing is padded.
    """
    frames = math.ceil(samples / SAMPLE_RATE * float(fps))
    missing = -frames % clip_frames if clip_frames > 0 else 0
    return frames + missing, samples + missing * int(SAMPLE_RATE // fps)
