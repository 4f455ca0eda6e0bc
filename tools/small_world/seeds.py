"""Random numbers that are the same everywhere, and the one smoothing that all tracks share."""

import zlib

import numpy as np


def random_state(seed: int, purpose: str) -> np.random.RandomState:
    """A stream of its own for each ``purpose``, so that a draw more in one place moves nothing in another.

    RandomState and not Generator: NumPy promises that its streams stay as they are from version to version.
    """
    return np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, zlib.crc32(purpose.encode())])


def smooth(track: np.ndarray, sigma: float) -> np.ndarray:
    """``track`` (n) under a Gaussian of ``sigma`` values, its ends held: (n), not shifted in time."""
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(track, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
