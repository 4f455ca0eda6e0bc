"""Waveforms: decoding, the check every audio input goes through, mixing and resampling."""

import io
from pathlib import Path

import numpy as np
import torch

from ..clips import ceil_div
from ..errors import InputError, MissingPackageError
from ..types import Audio

_CHUNK = 1 << 16
"""Samples handed to the resampler at a time: a frame of a whole hour would overflow its counters."""

_FILTER_LENGTH = 64
"""Samples, at the lower of the two rates, that safely cover the resampling filter (32 taps)."""


def decode(source: Path | bytes) -> Audio:
    """The first audio stream of a file, or of a file's bytes, with all its channels at its own sample rate.

    Integer samples are scaled to [-1, 1]. Raises InputError when there is no sound in it that can be decoded.
    """
    av = _import_av()
    name = "audio" if isinstance(source, bytes) else f"audio: {source}"
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
            if not container.streams.audio:
                raise InputError(f"{name} has no audio stream. Choose a file with sound.")
            stream = container.streams.audio[0]
            to_planar_float = av.AudioResampler(format="fltp")
            frames = [out for frame in container.decode(stream) for out in to_planar_float.resample(frame)]
            sample_rate = stream.rate
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{name} cannot be decoded ({error}). Choose a sound file such as WAV, FLAC, MP3 or M4A.") from error
    if not frames:
        raise InputError(f"{name} holds no samples. Choose a file with sound.")
    return Audio(torch.from_numpy(np.concatenate([frame.to_ndarray() for frame in frames], axis=1)), sample_rate)


def validate(audio: Audio, name: str = "audio") -> None:
    """Raises InputError naming the input when ``audio`` is not a finite, non-empty waveform (channels samples)."""
    waveform = audio.waveform
    if waveform.ndim != 2:
        raise InputError(f"{name}: expected one waveform of shape (channels, samples), got shape {list(waveform.shape)}.")
    if waveform.numel() == 0:
        raise InputError(f"{name} is empty: {waveform.shape[0]} channels of {waveform.shape[1]} samples. Load a file with sound.")
    if not waveform.is_floating_point():
        raise InputError(f"{name}: expected floating-point samples in [-1, 1], got {waveform.dtype}. Scale them first.")
    if audio.sample_rate <= 0:
        raise InputError(f"{name}: expected a positive sample rate, got {audio.sample_rate}.")
    broken = waveform.numel() - int(torch.isfinite(waveform).sum())
    if broken:
        raise InputError(f"{name}: {broken} of {waveform.numel()} samples are NaN or infinite. Look at the step that made this audio.")


def mono(audio: Audio) -> Audio:
    """The mean of all channels, (1 samples)."""
    return Audio(audio.waveform.float().mean(dim=0, keepdim=True), audio.sample_rate)


def resample(audio: Audio, sample_rate: int) -> Audio:
    """``audio`` at ``sample_rate``, band-limited, ⌈samples · new / old⌉ long and not shifted in time.

    It runs on PyAV, which every ComfyUI has: the filter is ffmpeg's own, as in the reference implementation, takes
    any pair of rates, and needs no memory for a filter bank where the two have no common divisor.
    """
    if sample_rate == audio.sample_rate:
        return audio
    length = ceil_div(audio.waveform.shape[1] * sample_rate, audio.sample_rate)
    # The filter ends half its length early, which for a very short wave is before it begins: silence runs it out.
    silence = np.zeros(_FILTER_LENGTH * ceil_div(audio.sample_rate, sample_rate), dtype=np.float32)
    channels = [_resample_channel(np.append(channel, silence), audio.sample_rate, sample_rate) for channel in audio.waveform.float().numpy()]
    return Audio(torch.from_numpy(np.stack(channels)[:, :length]), sample_rate)


def _resample_channel(samples: np.ndarray, old: int, new: int) -> np.ndarray:
    av = _import_av()
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new)
    resampled = []
    for start in range(0, len(samples), _CHUNK):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + _CHUNK], format="fltp", layout="mono")
        frame.sample_rate = old
        resampled += resampler.resample(frame)
    resampled += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in resampled])


def _import_av():
    try:
        import av
    except ImportError as error:
        raise MissingPackageError(f"Reading and resampling audio needs PyAV ({error}): pip install av") from error
    return av
