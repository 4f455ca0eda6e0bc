"""The mouth's opening measured in pictures, without the truth: those rendered here, or those that a net makes.

The inside of a mouth is the only magenta thing in this world, and equally magenta in all its parts but the teeth, which
are a fixed share of it. So its opening is its magenta area over its magenta width.
"""

import numpy as np

from tools.small_world.faces import GAP, MAGENTA, NARROW, WIDE
from tools.small_world.performance import FRAMING

LEFT, TOP, RIGHT, BOTTOM = -0.42, 0.05, 0.42, 0.80
"""Where mouths are, in halves of a picture from its middle, however the head sways."""

NONE, ALL = 0.25, 0.75
"""Shares of MAGENTA from which on a pixel counts as mouth, and as wholly so: a washed-out or blurred picture, from a
codec or a net, keeps the border between them where it was."""

AREA_TO_GAP, SPREAD_TO_HALF, SHUT_SEEN = 1.91, 1.95, 0.017
"""How the shape of a mouth turns area over width into the gap, the spread of its columns into half width, and how high,
in head units, the line of shut lips looks: on pixels it is more than SHUT_GAP. Fitted on the characters 0 to 63, so that
those of other seeds are unseen."""


def measure_mouth(frames: np.ndarray, pose: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Opening and width of the mouths in pictures, float32 (frames) each, in [0, 1] where the picture is of this world.

    frames: uint8, or floats in [0, 1], (frames size size 3), RGB. pose: (frames 6) as in Tracks, where it is known; else
    each head has the mean scale. A width is less certain than an opening, least so that of a mouth nearly shut.
    """
    magenta, columns, pixel = _magenta(frames)
    scale = np.full(len(frames), FRAMING) if pose is None else pose[:, 3].astype(np.float64)
    per_column = magenta.sum(axis=1)
    area = per_column.sum(axis=1)
    # The root evens out the lens: a column counts by whether it is mouth more than by how high it is.
    weight = np.sqrt(per_column) + 1e-9
    weight /= weight.sum(axis=1, keepdims=True)
    middle = (weight * columns).sum(axis=1, keepdims=True)
    spread = np.sqrt((weight * (columns - middle) ** 2).sum(axis=1))
    half = np.clip(SPREAD_TO_HALF * spread / scale, NARROW, WIDE)
    gap = AREA_TO_GAP * area * pixel**2 / scale**2 / (2 * half)
    opening, width = np.clip((gap - SHUT_SEEN) / GAP, 0, 1), (half - NARROW) / (WIDE - NARROW)
    return opening.astype(np.float32), width.astype(np.float32)


def _magenta(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """How magenta, [0, 1], each pixel is where mouths are (frames h w), their columns' x (w), and a pixel's side."""
    size = frames.shape[1]
    pixel = 2 / size
    rows = slice(int((TOP + 1) / pixel), int((BOTTOM + 1) / pixel))
    columns = slice(int((LEFT + 1) / pixel), int((RIGHT + 1) / pixel))
    window = frames[:, rows, columns].astype(np.float64) / (255 if frames.dtype == np.uint8 else 1)
    red, green, blue = np.moveaxis(window, -1, 0)
    share = (np.minimum(red, blue) - green) / MAGENTA
    x = (np.arange(size)[columns] + 0.5) * pixel - 1
    return np.clip((share - NONE) / (ALL - NONE), 0, 1), x, pixel


def correlation(measured: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's; 0 where one of them does not move."""
    if measured.std() < 1e-6 or truth.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(measured, truth)[0, 1])
