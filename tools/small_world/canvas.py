"""Painting frames with soft-edged shapes, all frames of a chunk at once.

A shape is a function of head coordinates that returns coverage. On pixels only + - * / and sqrt are used: these are
rounded alike by every machine, so that a picture is the same everywhere, and however a video is cut into chunks.

Dimension letters: f frames, h w pixels. Head coordinates u (right) and v (down): half a picture is 1 at scale 1.
"""

from collections.abc import Callable

import numpy as np

Shape = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""(u, v, pixel) -> coverage in [0, 1], (f h w); ``pixel`` is the side of a pixel in head units."""

DEPTH = np.float32(0.055)
"""Head units that something one head depth in front of the axis moves when the head is turned by 1."""


class Canvas:
    """Frames on a backdrop (h w 3, in [0, 1]), with a head in each at ``pose`` (f 6, as in Tracks)."""

    def __init__(self, backdrop: np.ndarray, pose: np.ndarray):
        planes = backdrop.transpose(2, 0, 1)[:, None]
        self._place(np.repeat(planes.astype(np.float32), len(pose), axis=1), pose)

    def following(self, pose: np.ndarray) -> "Canvas":
        """The same frames, to be painted on at another pose."""
        other = Canvas.__new__(Canvas)
        other._place(self.image, pose)
        return other

    def _place(self, image: np.ndarray, pose: np.ndarray) -> None:
        self.image, self.side = image, image.shape[-1]
        self.pixel = 2 / self.side
        x, y, roll, self._scale, self._yaw, self._pitch = (pose[:, i, None, None].astype(np.float32) for i in range(6))
        # Rounded like the tracks: the sine of another machine may differ in its last bit.
        self._cos, self._sin = (np.round(function(roll.astype(np.float64)), 6).astype(np.float32) for function in (np.cos, np.sin))
        self._x, self._y = x, y
        centres = ((np.arange(self.side) + 0.5) * self.pixel - 1).astype(np.float32)
        right, down = centres - x, centres[:, None] - y
        self.u = (self._cos * right + self._sin * down) / self._scale
        self.v = (self._cos * down - self._sin * right) / self._scale

    def paint(self, box: tuple[float, float, float, float], colour, shape: Shape, depth: float = 0.0, opacity: float = 1.0) -> None:
        """Cover with ``colour`` what ``shape`` covers.

        box: left, top, right, bottom in head coordinates, around all that the shape covers: only there it is asked.
        depth: in front of (above 0) or behind the axis of the head; it moves with yaw and pitch.
        """
        rows, columns = self._window(box, depth)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        u, v = self.u[:, rows, columns], self.v[:, rows, columns]
        if depth:
            u, v = u - depth * DEPTH * self._yaw, v - depth * DEPTH * self._pitch
        cover = shape(u, v, self.pixel)
        if opacity != 1.0:
            cover = cover * np.float32(opacity)
        for plane, value in zip(self.image, colour, strict=True):
            part = plane[:, rows, columns]
            change = np.float32(value) - part
            change *= cover
            part += change

    def _window(self, box: tuple[float, float, float, float], depth: float) -> tuple[slice, slice]:
        """Rows and columns that hold ``box`` in every frame."""
        left, top, right, bottom = box
        u = np.array((left, right, left, right), dtype=np.float32) + depth * DEPTH * self._yaw[:, 0]
        v = np.array((top, top, bottom, bottom), dtype=np.float32) + depth * DEPTH * self._pitch[:, 0]
        scale, cos, sin = self._scale[:, 0], self._cos[:, 0], self._sin[:, 0]
        x = self._x[:, 0] + scale * (cos * u - sin * v)
        y = self._y[:, 0] + scale * (cos * v + sin * u)
        spans = [(int((axis.min() + 1) / self.pixel) - 2, int((axis.max() + 1) / self.pixel) + 3) for axis in (y, x)]
        return tuple(slice(max(0, low), min(self.side, high)) for low, high in spans)

    def frames(self) -> np.ndarray:
        """uint8 (f h w 3)."""
        return (np.clip(self.image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 3, 0)


def inside(distance: np.ndarray, edge: float) -> np.ndarray:
    """Coverage from a signed distance (below 0 inside), over an edge ``edge`` wide."""
    return np.clip(np.float32(0.5) - distance * np.float32(1 / edge), 0, 1)


def ellipse(u, v, centre_u, centre_v, radius_u, radius_v):
    """Signed distance, nearly, to an ellipse."""
    x, y = (u - centre_u) / radius_u, (v - centre_v) / radius_v
    squared = x * x + y * y
    x, y = x / radius_u, y / radius_v
    k = np.sqrt(squared)
    return k * (k - 1) / (np.sqrt(x * x + y * y) + np.float32(1e-6))


def box(u, v, centre_u, centre_v, half_u, half_v, corner):
    """Signed distance to a rectangle with round corners of radius ``corner``."""
    x, y = np.abs(u - centre_u) - (half_u - corner), np.abs(v - centre_v) - (half_v - corner)
    outside_x, outside_y = np.maximum(x, 0), np.maximum(y, 0)
    return np.sqrt(outside_x * outside_x + outside_y * outside_y) + np.minimum(np.maximum(x, y), 0) - corner


def between(v, upper, lower, pixel):
    """Coverage of the band from ``upper`` to ``lower``, right also where it is thinner than a pixel."""
    half = np.float32(pixel / 2)
    return np.clip((np.minimum(lower, v + half) - np.maximum(upper, v - half)) / (2 * half), 0, 1)


def ease(x):
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def bumps(x):
    """Round bumps of period 1 and height 1, with no sine in them."""
    part = x - np.floor(x)
    return 4 * part * (1 - part)


def turn(u, v):
    """Something like the angle of (u, v), from -2 to 2 clockwise from the left, with no arctangent in it."""
    share = u / (np.abs(u) + np.abs(v) + np.float32(1e-6))
    return np.where(v < 0, share - 1, 1 - share)
