"""What a sound does to a mouth: the rule of this world, which a net has to find.

Opening is a smooth, monotone function of the short-time log energy over the slow level around it, width one of the
spectral centroid over its slow mean: loudness, throat and mood of a voice move neither. Both are smoothed over about
50 ms and belong to the middle of a frame: no lag.
"""

import numpy as np

from tools.small_world.seeds import smooth

WINDOW, HOP = 400, 80
"""Samples of 16 kHz: 25 ms, every 5 ms."""

SMOOTHING = 4.0
"""Hops; a Gaussian of 20 ms covers about 50 ms."""

LEVEL = 300.0
"""Hops over which the slow level is taken, 1.5 s to either side."""

QUIETEST = -50.0
"""dB of full scale: a level below is silence, which opens no mouth however long it lasts."""

SHUT, RANGE = -24.0, 33.0
"""dB over the level: closed at SHUT, fully open RANGE above."""

REST_WIDTH = 0.45
OCTAVES = 1.7
"""Of the centroid, from the narrowest mouth to the widest."""


def mouth_from_sound(waveform: np.ndarray, frames: int, fps: float = 30.0) -> tuple[np.ndarray, np.ndarray]:
    """Opening and width, float32 (frames) each in [0, 1], of a mouth that makes this sound.

    waveform: (samples) in [-1, 1] at 16 kHz.
    """
    power, centroid = _spectra(np.asarray(waveform, dtype=np.float64))
    decibels = 10 * np.log10(power + 1e-9)
    level = 10 * np.log10(smooth(power, LEVEL) + 1e-9)
    open_now = _ease((decibels - np.maximum(level, QUIETEST) - SHUT) / RANGE)
    voiced = _ease(open_now / 0.3)  # the centroid of silence means nothing
    octave = np.log2(centroid)
    mean = smooth(voiced * octave, LEVEL) / (smooth(voiced, LEVEL) + 1e-3)
    wide_now = _ease(REST_WIDTH + (octave - mean) / OCTAVES)
    opening = smooth(open_now, SMOOTHING)
    width = smooth(voiced * wide_now + (1 - voiced) * REST_WIDTH, 1.5 * SMOOTHING)
    middles = (np.arange(frames) + 0.5) / fps * 16000 / HOP
    hops = np.arange(len(power))
    return tuple(np.round(np.interp(middles, hops, track), 5).astype(np.float32) for track in (opening, width))


def _spectra(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power (full-scale square is 1) and centroid in Hz around every HOP-th sample: (hops) each."""
    padded = np.pad(waveform, (WINDOW // 2, WINDOW))
    segments = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    segments = segments * window
    power = (segments**2).sum(axis=1) / (window**2).sum()
    hz = np.fft.rfftfreq(WINDOW, 1 / 16000)
    heard = (hz > 150) & (hz < 4500)
    magnitude = np.abs(np.fft.rfft(segments, axis=1))[:, heard]
    # A hundredth of a quiet voice, so that silence has a centroid at all.
    return power, (magnitude @ hz[heard] + 1e-3 * 500) / (magnitude.sum(axis=1) + 1e-3)


def _ease(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
