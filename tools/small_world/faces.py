"""A face, layer by layer, from a character and its tracks."""

import numpy as np

from tools.small_world.canvas import Canvas, between, ease, ellipse, inside
from tools.small_world.characters import Character, Colour, distance, mix
from tools.small_world.eyes import paint_eyes, paint_glasses
from tools.small_world.hair import paint_behind, paint_front
from tools.small_world.performance import Tracks
from tools.small_world.scenery import backdrop, paint_body

MOUTH_V = 0.33
"""v of the line between closed lips."""

GAP, SHUT_GAP = 0.25, 0.012
"""Head units between the lips of a mouth as open as can be, and of a shut one: the line between them."""

NARROW, WIDE = 0.125, 0.25
"""Head units from the middle of the narrowest and the widest mouth to its corners."""

UPPER = 0.36
"""Share of the gap above the line of the closed lips."""

INSIDE, TONGUE, TEETH = (0.38, 0.02, 0.20), (0.88, 0.34, 0.52), (0.97, 0.97, 0.95)
"""Inside and tongue are equally magenta: min(red, blue) - green is MAGENTA in both, and far less everywhere else."""

MAGENTA = 0.18
TEETH_SHARE = 0.24
"""Of the gap, at any opening: what is magenta stays in proportion to it."""

BROWS_V = -0.245
CHUNK = 8
"""Frames painted together: more leave the cache of a core, fewer spend the time in calls."""


def render(who: Character, tracks: Tracks, size: int = 128) -> np.ndarray:
    """uint8 (frames size size 3), RGB. Each frame depends on its own row of ``tracks`` alone."""
    behind = backdrop(who, size)
    chunks = [_render_chunk(who, tracks[i : i + CHUNK], behind) for i in range(0, len(tracks), CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, size, size, 3), dtype=np.uint8)


def _render_chunk(who: Character, tracks: Tracks, behind: np.ndarray) -> np.ndarray:
    columns = {name: track[:, None, None] for name, track in vars(tracks).items() if track.ndim == 1}
    head = Canvas(behind, tracks.pose)
    body = head.following(tracks.pose * np.float32((0.5, 0.5, 0.15, 0.4, 0.3, 0)) + np.float32((0, 0, 0, 0.6, 0, 0)))
    paint_behind(head, who)
    paint_body(body, who)
    _paint_head(head, who, columns["opening"])
    _paint_mouth(head, who, columns)
    _paint_nose(head, who)
    paint_eyes(head, who, columns, tracks.gaze)
    paint_front(head, who)
    _paint_brows(head, who, columns)
    if who.glasses != "none":
        paint_glasses(head, who)
    return head.frames()


def _paint_head(canvas: Canvas, who: Character, opening: np.ndarray) -> None:
    dark = mix(who.skin, (0.45, 0.20, 0.14), 0.3)
    for side in (-1, 1):
        _paint_ear(canvas, who, side * who.face_width * 0.99, dark)
    whole = (-0.65, -0.75, 0.65, 0.8)

    def face(u, v, px):
        # The jaw tapers, and its lower half follows the opening mouth.
        lower = np.maximum(v, 0)
        return inside(ellipse(u * (1 + who.jaw * lower * lower), v, 0.0, 0.0, who.face_width, who.face_height + 0.055 * opening * (v > 0)), px)

    canvas.paint(whole, who.skin, face)
    canvas.paint(whole, dark, lambda u, v, px: face(u, v, px) * ease((who.light * u - 0.08) / 0.6), opacity=0.55)
    if who.beard == "full":
        canvas.paint(
            (-0.65, -0.1, 0.65, 0.8),
            mix(who.hair, who.skin, 0.3),
            lambda u, v, px: face(u, v, px) * inside(-ellipse(u, v, 0.0, -0.12, who.face_width * 0.86, 0.54), 0.035) * ease((v + 0.05) * 8),
        )
    elif who.beard == "goatee":
        canvas.paint(
            (-0.25, 0.4, 0.25, 0.85),
            mix(who.hair, who.skin, 0.2),
            lambda u, v, px: face(u, v, px) * inside(ellipse(u, v, 0.0, 0.60 + 0.05 * opening, 0.15, 0.12), 0.03),
        )
    for side in (-1, 1):
        _paint_cheek(canvas, who, side * (who.eye_distance + 0.09), dark)


def _paint_ear(canvas: Canvas, who: Character, middle: float, dark: Colour) -> None:
    box = (middle - 0.2, -0.25, middle + 0.2, 0.3)
    canvas.paint(box, who.skin, lambda u, v, px: inside(ellipse(u, v, middle, 0.0, who.ears, who.ears * 1.35), px), depth=-0.6)
    canvas.paint(box, dark, lambda u, v, px: inside(ellipse(u, v, middle, 0.0, who.ears * 0.5, who.ears * 0.8), 0.05), depth=-0.6)
    if who.earrings:
        canvas.paint(box, (0.95, 0.80, 0.35), lambda u, v, px: inside(ellipse(u, v, middle, who.ears * 1.35 + 0.05, 0.03, 0.045), px), depth=-0.6)


def _paint_cheek(canvas: Canvas, who: Character, middle: float, dark: Colour) -> None:
    box = (middle - 0.2, 0.0, middle + 0.2, 0.35)
    blush = mix(who.skin, (0.92, 0.36, 0.30), 0.5)
    canvas.paint(box, blush, lambda u, v, px: inside(ellipse(u, v, middle, 0.16, 0.10, 0.075), 0.10), depth=0.8, opacity=who.blush)
    if who.freckles:
        for right, down in ((-0.06, 0.0), (0.0, 0.035), (0.06, 0.0), (0.02, -0.035)):
            spot = (middle + right, 0.13 + down, 0.012, 0.012)
            near = (spot[0] - 0.05, spot[1] - 0.05, spot[0] + 0.05, spot[1] + 0.05)
            canvas.paint(near, dark, lambda u, v, px, spot=spot: inside(ellipse(u, v, *spot), px), depth=0.8, opacity=0.8)


def _paint_mouth(canvas: Canvas, who: Character, face: dict[str, np.ndarray]) -> None:
    half = NARROW + (WIDE - NARROW) * face["width"]
    gap = SHUT_GAP + GAP * face["opening"]
    lift = 0.075 * face["corners"] * half / WIDE
    reach = half + 0.035  # of the lips, around the gap
    box = (-0.33, 0.1, 0.33, 0.7)

    def line(u):
        """v of the line between the lips when they are shut: it rises at the corners of a smile."""
        x = u / half
        return MOUTH_V + lift * (0.45 - x * x)

    def lips(u, v, px):
        full, dip = _bow(u / reach), 0.3 * np.maximum(1 - u * u * 400, 0)
        upper = line(u) - full * (UPPER * gap + who.lip_weight * (1 - dip))
        return between(v, upper, line(u) + full * ((1 - UPPER) * gap + 1.25 * who.lip_weight), px)

    def part(u, first, last):
        """Upper and lower border of a share of the gap."""
        full = _bow(u / half) * gap
        return line(u) + full * (first - UPPER), line(u) + full * (last - UPPER)

    def tongue(u):
        """A hill in the lower half of the gap."""
        x = u / (0.75 * half)
        top, bottom = part(u, 0.5, 1.0)
        return bottom - (bottom - top) * np.maximum(1 - x * x, 0), bottom

    def shine(u, v, px):
        return inside(ellipse(u, v, 0.0, line(u) + (1 - UPPER) * gap + 0.6 * who.lip_weight, 0.07, 0.008), 0.02)

    if who.beard in ("moustache", "full"):
        canvas.paint(
            box,
            mix(who.hair, who.skin, 0.12),
            lambda u, v, px: inside(ellipse(u, v - 0.9 * u * u, 0.0, MOUTH_V - 0.075 - UPPER * gap, 0.19, 0.042), px),
            depth=1.0,
        )
    canvas.paint(box, who.lips, lips, depth=1.0)
    canvas.paint(box, mix(who.lips, (1, 1, 1), 0.35), shine, depth=1.0, opacity=0.6)
    canvas.paint(box, INSIDE, lambda u, v, px: between(v, *part(u, 0, 1), px), depth=1.0)
    canvas.paint(box, TONGUE, lambda u, v, px: between(v, *tongue(u), px), depth=1.0)
    canvas.paint(box, TEETH, lambda u, v, px: between(v, *part(u, 0, TEETH_SHARE), px) * ease((gap - 0.02) / 0.04), depth=1.0)


def _bow(x):
    """1 in the middle, 0 from the corners at 1 and -1 outwards, fuller than a parabola."""
    root = np.sqrt(np.maximum(1 - x * x, 0))
    return root * np.sqrt(root)


def _paint_nose(canvas: Canvas, who: Character) -> None:
    shade = mix(who.skin, (0.50, 0.20, 0.12), 0.38)
    wide, tall = {"button": (0.06, 0.045), "wide": (0.085, 0.05), "long": (0.055, 0.06)}[who.nose]
    box = (-0.2, -0.15, 0.2, 0.3)
    if who.nose == "long":
        canvas.paint(box, shade, lambda u, v, px: inside(ellipse(u, v, who.light * 0.035, 0.03, 0.022, 0.13), 0.03), depth=1.5, opacity=0.6)
    canvas.paint(box, shade, lambda u, v, px: inside(ellipse(u, v, 0.0, 0.145, wide, tall), px), depth=1.7)
    canvas.paint(
        box, mix(who.skin, (1, 0.75, 0.65), 0.25), lambda u, v, px: inside(ellipse(u, v, -0.008 * who.light, 0.13, wide, tall), px), depth=1.7
    )
    canvas.paint(box, (1, 1, 1), lambda u, v, px: inside(ellipse(u, v, -0.02 * who.light, 0.115, 0.018, 0.013), 0.02), depth=1.7, opacity=0.5)


def _paint_brows(canvas: Canvas, who: Character, face: dict[str, np.ndarray]) -> None:
    # Moods are read from brows: they stand out from the skin whatever the hair.
    colour = mix(who.hair, (0.10, 0.07, 0.05), 0.35 if distance(who.hair, who.skin) > 0.45 else 0.7)
    half = np.float32(0.135)
    for side in (-1, 1):
        middle = np.float32(side * (who.eye_distance + 0.005))

        def brow(u, v, px, middle=middle, side=side):
            x = (u - middle) / half
            inner = -side * x  # 1 at the end towards the nose
            arch = BROWS_V - 0.062 * face["brow_raise"] - 0.062 * face["brow_tilt"] * inner + 0.035 * (x * x - 0.5)
            weight = who.brow_weight * np.sqrt(np.maximum(1 - x * x, 0)) * (0.8 + 0.3 * inner)
            return between(v, arch - weight, arch + weight, px)

        canvas.paint((middle - 0.17, BROWS_V - 0.25, middle + 0.17, BROWS_V + 0.25), colour, brow, depth=1.1)
