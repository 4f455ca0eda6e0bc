"""Waveforms: decoding, the check every audio input goes through, mixing and resampling."""

import io
import math
from collections.abc import Callable, Iterator
from numbers import Integral
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..clips import ceil_div
from ..errors import InputError
from ..pyav import audio_resampler, import_av, open_to_read
from ..types import Audio
from ..values import FLOATS, parts, tensor_fault
from ..video.reading import sound_tracks
from ..words import quoted

SILENCE = 1e-4
"""A sound whose loudest sample (of 1) is below this counts as silent."""

_CHUNK = 1 << 16
"""Samples handed to the resampler at a time: a frame of a whole hour would overflow its counters."""

_FILTER_LENGTH = 64
"""Samples, at the lower of the two rates, that safely cover the resampling filter (32 taps)."""

SAMPLE_RATES = (1_000, 1_000_000)
"""Hertz of anything that is sound. A typing error beyond them would ask the resampler for terabytes."""

MOST_CHANNELS = 64
"""More are samples where channels belong."""

LOUDEST = 2.0**31
"""Full scale of 32-bit integers. Beyond it float32 has no room for the sum of squares of a wave."""

_CANCELLED = 0.25
"""Energy of the sum of all channels, as a share of the sum of their energies, below which they cancel each other."""

MOST_VALUES = 2**30
"""Samples of all channels together that a file may hold: 3 hours of stereo at 48 kHz, 4 GiB. A megabyte can claim them."""


def decode(source: Path | bytes) -> Audio:
    """The sound of a file, or of a file's bytes, with all its channels at its own sample rate: the track that is marked as default, or the
    first; the next where nothing is heard in it.

    Integer samples are scaled to [-1, 1]. Other files and addresses that a playlist names are not opened. Raises
    InputError when there is no sound in it that can be decoded, or more than 4 GiB of it.
    """
    av = import_av()
    name = "audio" if isinstance(source, bytes) else f"audio: {source}"
    try:
        chunks, sample_rate, tracks = _decoded_chunks(av, source, name)
        for number in range(1, tracks):
            if any(np.abs(chunk).max(initial=0) >= SILENCE for chunk in chunks):
                break
            chunks, sample_rate, _ = _decoded_chunks(av, source, name, number)
    except InputError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:  # ValueError: its format changes on the way
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be decoded ({reason}). Choose a sound file such as WAV, FLAC, MP3 or M4A.") from error
    if not chunks:
        raise InputError(f"{name} holds no samples. Choose a file with sound.")
    return Audio(torch.from_numpy(np.concatenate(chunks, axis=1)), sample_rate)


def _decoded_chunks(av: ModuleType, source: Path | bytes, name: str, number: int = 0) -> tuple[list[np.ndarray], int, int]:
    """Pieces (channels samples) of an audio stream, in the order in which they are to be tried, its sample rate, and how many there are."""
    # without a protocol FFmpeg reads the file it is handed and no other
    options = {"protocol_whitelist": "none"}
    file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with file, open_to_read(file, options=options) as container:
        tracks = sound_tracks(container)
        if not tracks:
            raise InputError(f"{name} has no audio stream. Choose a file with sound.")
        stream = tracks[number]
        # interleaved: PyAV falls over the planes of eight channels and more
        to_float = audio_resampler(format="flt")
        chunks, values = [], 0
        for frame in container.decode(stream):
            chunks += [out.to_ndarray().reshape(-1, out.layout.nb_channels).T for out in to_float.resample(frame)]
            values += frame.samples * frame.layout.nb_channels
            if values > MOST_VALUES:
                raise InputError(f"{name} is too long: more than {MOST_VALUES} samples in all channels. Cut it into parts.")
        return chunks, stream.rate, len(tracks)


def validate(audio: Audio, name: str = "audio", check_interrupt: Callable[[], None] = lambda: None) -> None:
    """Raises InputError naming the input when ``audio`` is not a finite, non-empty waveform (channels samples).

    Samples beyond [-1, 1], clipped or of integer scale, are left as they are: all that listens here sets the level itself.
    ``check_interrupt`` is called several times a second and may raise.
    """
    waveform = audio.waveform
    if not isinstance(waveform, Tensor):
        raise InputError(f"{name}: expected a waveform as a tensor, got {type(waveform).__name__}.")
    if fault := tensor_fault(waveform):
        raise InputError(f"{name}: {fault}")
    if waveform.ndim != 2:
        raise InputError(f"{name}: expected one waveform of shape (channels, samples), got shape {list(waveform.shape)}.")
    if waveform.numel() == 0:
        raise InputError(f"{name} is empty: {waveform.shape[0]} channels of {waveform.shape[1]} samples. Load a file with sound.")
    if waveform.dtype not in FLOATS:
        raise InputError(f"{name}: expected floating-point samples in [-1, 1], got {waveform.dtype}. Scale them first.")
    if waveform.shape[0] > MOST_CHANNELS:
        raise InputError(
            f"{name}: expected at most {MOST_CHANNELS} channels, got {waveform.shape[0]} of {waveform.shape[1]} samples. "
            "Are channels and samples swapped?"
        )
    if not isinstance(audio.sample_rate, Integral) or not SAMPLE_RATES[0] <= audio.sample_rate <= SAMPLE_RATES[1]:
        raise InputError(f"{name}: expected a sample rate of {SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz, got {quoted(audio.sample_rate)}.")
    loudest = peak(audio, check_interrupt)
    if not math.isfinite(loudest):
        broken = waveform.numel() - sum(int(torch.isfinite(part).sum()) for part in parts(audio.waveform, check_interrupt, dim=1))
        raise InputError(f"{name}: {broken} of {waveform.numel()} samples are NaN or infinite. Look at the step that made this audio.")
    if loudest > LOUDEST:
        raise InputError(f"{name}: expected samples in [-1, 1], got up to {loudest:.3g}. Look at the step that made this audio.")


def peak(audio: Audio, check_interrupt: Callable[[], None] = lambda: None) -> float:
    """The loudest sample's distance from zero; not finite where any of them is not."""
    loudest = 0.0
    for part in parts(audio.waveform, check_interrupt, dim=1):
        lowest, highest = (float(value) for value in torch.aminmax(part))
        if not math.isfinite(lowest) or not math.isfinite(highest):
            return math.nan
        loudest = max(loudest, -lowest, highest)
    return loudest


def mono(audio: Audio, check_interrupt: Callable[[], None] = lambda: None) -> Audio:
    """The mean of all channels, (1 samples); where they cancel each other, the loudest alone, see ``alone``."""
    waveform = audio.waveform.detach()
    if len(waveform) == 1:
        return Audio(waveform.float(), audio.sample_rate)
    kept = alone(audio, check_interrupt)
    if kept is not None:
        return Audio(waveform[kept : kept + 1].float(), audio.sample_rate)
    mean, done = torch.empty(1, waveform.shape[1]), 0
    for part in parts(waveform, check_interrupt, dim=1):
        mean[:, done : done + part.shape[1]] = part.float().mean(dim=0, keepdim=True)
        done += part.shape[1]
    return Audio(mean, audio.sample_rate)


def alone(audio: Audio, check_interrupt: Callable[[], None] = lambda: None) -> int | None:
    """The channel to be heard alone, since the channels cancel each other: one of a stereo pair was inverted. Else None.

    It is the loudest, of equally loud ones the first.
    """
    channels = len(audio.waveform)
    of_sum, of_each = 0.0, torch.zeros(channels, dtype=torch.float64)
    for part in parts(audio.waveform, check_interrupt, dim=1):
        samples = part.double()
        of_sum += float(samples.sum(dim=0).square().sum())
        of_each += samples.square().sum(dim=1)
    # 1 where the channels have nothing in common or only one is used, ``channels`` where they are the same
    return int(of_each.argmax()) if of_sum < _CANCELLED * float(of_each.sum()) else None


def mixing_note(audio: Audio, name: str = "audio", check_interrupt: Callable[[], None] = lambda: None) -> str:
    """A sentence for the user where ``mono`` leaves channels out; else nothing."""
    kept = alone(audio, check_interrupt) if len(audio.waveform) > 1 else None
    return "" if kept is None else f"{name}: its channels cancel each other, as if one was inverted: channel {kept + 1} alone is listened to."


def silence_note(audio: Audio, name: str = "audio", check_interrupt: Callable[[], None] = lambda: None) -> str:
    """A sentence for the user where no channel of ``audio`` moves by more than SILENCE, whatever constant it is at; else nothing."""
    spans = [torch.aminmax(part, dim=1) for part in parts(audio.waveform, check_interrupt, dim=1)]
    lowest, highest = (torch.stack([span[side] for span in spans]) for side in (0, 1))
    if (highest.amax(dim=0) - lowest.amin(dim=0)).max() / 2 >= SILENCE:
        return ""
    return f"{name}: nothing is heard in it. Of a file with several tracks Load Audio reads the first."


def mixed_down(audio: Audio, check_interrupt: Callable[[], None] = lambda: None) -> Audio:
    """``mono``, as loud at its peak as the loudest channel was: a voice in one of eight channels keeps its level."""
    mixed = mono(audio, check_interrupt)
    before, after = peak(audio, check_interrupt), peak(mixed, check_interrupt)
    return Audio(mixed.waveform * (before / after), audio.sample_rate) if after else mixed


def listened(audio: Audio, sample_rate: int, name: str = "audio", check_interrupt: Callable[[], None] = lambda: None) -> Audio:
    """What a network hears of ``audio``: checked as by ``validate``, ``mono``, and at its ``sample_rate``."""
    validate(audio, name, check_interrupt)
    return resample(mono(audio, check_interrupt), sample_rate, check_interrupt)


def resample(audio: Audio, sample_rate: int, check_interrupt: Callable[[], None] = lambda: None) -> Audio:
    """``audio`` at ``sample_rate``, band-limited, ⌈samples · new / old⌉ long and not shifted in time.

    It runs on PyAV, which every ComfyUI has: the filter is ffmpeg's own, as in the reference implementation, takes
    any pair of rates, and needs no memory for a filter bank where the two have no common divisor. ``check_interrupt`` is
    called many times a second and may raise.
    """
    if sample_rate == audio.sample_rate:
        return audio
    old, samples = audio.sample_rate, audio.waveform.shape[1]
    resampled = torch.zeros(len(audio.waveform), ceil_div(samples * sample_rate, old))
    for channel, whole in zip(audio.waveform.detach(), resampled, strict=True):
        done = 0
        for piece in _resampled(channel, old, sample_rate, check_interrupt):
            piece = piece[: len(whole) - done]
            whole[done : done + len(piece)] = torch.from_numpy(piece)
            done += len(piece)
    return Audio(resampled, sample_rate)


def _resampled(channel: Tensor, old: int, new: int, check_interrupt: Callable[[], None]) -> Iterator[np.ndarray]:
    """Pieces of a channel (samples) at its new rate, and somewhat more of them than it is long."""
    av = import_av()
    resampler = audio_resampler(format="fltp", layout="mono", rate=new)
    # The filter ends half its length early, which for a very short wave is before it begins: silence runs it out.
    silence = torch.zeros(_FILTER_LENGTH * ceil_div(old, new))
    for part in (*channel.split(_CHUNK), *silence.split(_CHUNK)):
        check_interrupt()
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part.float().numpy())[None], format="fltp", layout="mono")
        frame.sample_rate = old
        yield from (out.to_ndarray()[0] for out in resampler.resample(frame))
    yield from (out.to_ndarray()[0] for out in resampler.resample(None))
