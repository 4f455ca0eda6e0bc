"""Eyes, with their lids and lashes, and the glasses before them."""

import numpy as np

from tools.small_world.canvas import Canvas, between, box, ellipse, inside
from tools.small_world.characters import Character, mix
from tools.small_world.performance import WIDEST_EYES

EYES_V = -0.04
"""v of the line on which lids meet."""

LENS, RIM = 0.165, 0.014
"""Radius of a lens and half the thickness of its frame, in head units."""


def paint_eyes(canvas: Canvas, who: Character, face: dict[str, np.ndarray], gaze: np.ndarray) -> None:
    """face: columns (f 1 1) of Tracks; gaze: (f 2)."""
    half = np.float32(0.112 * who.eye_size)
    height = np.float32(0.098 * who.eye_size) * face["eyes"] * WIDEST_EYES
    look_u, look_v = (gaze[:, i, None, None] * np.float32(reach) for i, reach in ((0, 0.035), (1, 0.02)))
    for side in (-1, 1):
        middle = np.float32(side * who.eye_distance)

        def lids(u, middle=middle, side=side):
            """v of the upper and the lower lid at each u."""
            x = (u - middle) / half
            arc = height * np.sqrt(np.maximum(1 - x * x, 0))
            # The upper lid falls towards the nose in anger, towards the temple in sorrow.
            fallen = np.clip(1 - 0.62 * np.maximum(-side * x * face["slant"], 0), 0, 1)
            return EYES_V - arc * fallen, EYES_V + 0.82 * arc * (1 - 0.55 * face["squint"])

        _paint_eye(canvas, who, middle, lids, middle + look_u, EYES_V - 0.01 + look_v)

        def lashes(u, v, px, lids=lids, middle=middle, side=side):
            x = (u - middle) / half
            upper, _ = lids(u)
            # Thick in the middle and towards the temple.
            weight = np.maximum(1.15 - x * x, 0) * (0.017 + 0.006 * side * x)
            return between(v, upper - 1.2 * weight, upper + 0.6 * weight, px) * (np.abs(x) < 1.07)

        canvas.paint(_around(middle, 0.2), mix(who.hair, (0.06, 0.05, 0.05), 0.75), lashes, depth=1.0)


def _paint_eye(canvas: Canvas, who: Character, middle, lids, iris_u, iris_v) -> None:
    """What lies between ``lids``; ``iris_u``, ``iris_v`` (f 1 1) say where it looks."""
    around, size = _around(middle, 0.2), who.eye_size

    def eye(u, v, px):
        return between(v, *lids(u), px)

    def disc(radius, right=0.0, down=0.0):
        return lambda u, v, px: inside(ellipse(u, v, iris_u + right, iris_v + down, radius, radius), px) * eye(u, v, px)

    shadow = mix(who.skin, (0.48, 0.22, 0.14), 0.3)
    canvas.paint(
        around, shadow, lambda u, v, px: inside(ellipse(u, v, middle, EYES_V - 0.02, 0.125 * size, 0.105 * size), 0.05), depth=1.0, opacity=0.45
    )
    canvas.paint(around, (0.99, 0.99, 0.97), eye, depth=1.0)
    for colour, radius in ((mix(who.eyes, (0, 0, 0), 0.35), 0.070 * size), (who.eyes, 0.057 * size), ((0.05, 0.05, 0.06), 0.032 * size)):
        canvas.paint(_around(middle, 0.13), colour, disc(radius), depth=1.05)
    canvas.paint(_around(middle, 0.13), (1, 1, 1), disc(0.019, right=-0.022 * who.light, down=-0.026), depth=1.05)


def _around(middle: float, reach: float) -> tuple[float, float, float, float]:
    return middle - reach, EYES_V - reach, middle + reach, EYES_V + reach


def paint_glasses(canvas: Canvas, who: Character) -> None:
    apart = who.eye_distance + 0.012

    def lens(u, v, middle):
        if who.glasses == "round":
            return ellipse(u, v, middle, EYES_V, LENS, 0.97 * LENS)
        return box(u, v, middle, EYES_V, LENS, 0.8 * LENS, 0.05)

    for side in (-1, 1):
        middle, around = side * apart, _around(side * apart, 0.22)
        # A bar of light lies across each glass.
        canvas.paint(
            around,
            (1, 1, 1),
            lambda u, v, px, m=middle: inside(lens(u, v, m), px) * (0.1 + 0.25 * inside(np.abs(u - m + v - EYES_V + 0.12) - 0.025, px)),
            depth=1.3,
        )
        canvas.paint(around, who.frames, lambda u, v, px, m=middle: inside(np.abs(lens(u, v, m)) - RIM, px), depth=1.3)
        low, high = sorted((side * (apart + LENS), side * who.face_width))
        temple = (low - 0.05, EYES_V - 0.08, high + 0.05, EYES_V + 0.05)
        canvas.paint(
            temple,
            who.frames,
            lambda u, v, px, low=low, high=high: between(v, EYES_V - 0.035, EYES_V - 0.01, px) * between(u, low, high, px),
            depth=0.9,
        )
    bridge = apart - LENS
    canvas.paint(
        (-0.2, EYES_V - 0.1, 0.2, EYES_V + 0.1),
        who.frames,
        lambda u, v, px: between(v, EYES_V - 0.052 + u * u, EYES_V - 0.028 + u * u, px) * between(u, -bridge, bridge, px),
        depth=1.3,
    )
