"""Hair: what lies behind the head, and what grows over the forehead."""

import numpy as np

from tools.small_world.canvas import Canvas, box, bumps, ease, ellipse, inside, turn
from tools.small_world.characters import Character, mix

BEHIND = {"bob": 0.62, "long": 1.25, "curtains": 0.86}
"""How far down hair hangs behind the face, in head units."""

VOLUME = {
    "short": 0.07,
    "side": 0.06,
    "bob": 0.07,
    "long": 0.05,
    "bun": 0.03,
    "curly": 0.10,
    "afro": 0.24,
    "spiky": 0.08,
    "bald": 0.0,
    "curtains": 0.06,
}
"""How far hair stands off the skull, in head units."""

FOREHEAD = -0.40
"""v of the hairline in the middle of a bare forehead."""


def paint_behind(canvas: Canvas, who: Character) -> None:
    """Hair that face, neck and clothes cover."""
    dark = mix(who.hair, (0.04, 0.05, 0.06), 0.3)
    if who.hair_style in BEHIND:
        bottom = BEHIND[who.hair_style]
        half = (bottom + 0.75) / 2
        width = who.face_width + (0.16 if who.hair_style != "curtains" else 0.12)
        canvas.paint(
            (-0.9, -0.9, 0.9, 1.4), dark, lambda u, v, px: inside(box(u * (1 - 0.12 * v), v, 0.0, bottom - half, width, half, 0.5), px), depth=-0.5
        )
    elif who.hair_style == "afro":
        canvas.paint((-1.0, -1.2, 1.0, 0.7), dark, lambda u, v, px: inside(_outline(u, v, who), px), depth=-0.4)
    elif who.hair_style == "bun":
        canvas.paint((-0.4, -1.15, 0.4, -0.5), dark, lambda u, v, px: inside(ellipse(u, v, 0.0, -0.80, 0.25, 0.21), px), depth=-0.5)
        canvas.paint(
            (-0.4, -1.15, 0.4, -0.5), who.hair, lambda u, v, px: inside(ellipse(u, v, -0.03 * who.light, -0.82, 0.20, 0.165), px), depth=-0.5
        )


def paint_front(canvas: Canvas, who: Character) -> None:
    """Hair over the forehead and at the temples, with a shine."""
    if who.hair_style == "bald":
        canvas.paint(
            (-0.4, -0.7, 0.4, -0.3),
            (1, 1, 1),
            lambda u, v, px: inside(ellipse(u, v, who.light * -0.17, -0.5, 0.13, 0.06), 0.06),
            depth=0.4,
            opacity=0.35,
        )
        return
    top = (-0.95, -1.15, 0.95, 0.35)
    # A soft shadow of the fringe on the forehead lifts it off the face.
    canvas.paint(
        (-0.6, -0.75, 0.6, 0.35),
        mix(who.skin, (0.40, 0.18, 0.10), 0.5),
        lambda u, v, px: inside(v - 0.035 - _hairline(u, who), 0.05) * inside(ellipse(u, v, 0.0, 0.0, who.face_width, who.face_height), px),
        depth=0.3,
        opacity=0.45,
    )
    canvas.paint(top, who.hair, lambda u, v, px: _front(u, v, px, who), depth=0.3)
    bright = mix(who.hair, (1.0, 0.96, 0.86), 0.32)
    canvas.paint(
        (-0.7, -1.0, 0.7, -0.2),
        bright,
        lambda u, v, px: (
            _front(u, v, px, who)
            * inside(np.abs(ellipse(u, v, -0.08 * who.light, -0.04, 0.46, 0.62)) - 0.03, 0.07)
            * ease(-who.light * u * 2.2)
            * ease((-0.2 - v) * 4)
        ),
        depth=0.3,
        opacity=0.7,
    )


def _front(u, v, px, who: Character):
    line = _hairline(u, who)
    slope = (_hairline(u + np.float32(px), who) - line) / np.float32(px)
    return inside(_outline(u, v, who), px) * inside((v - line) / np.sqrt(1 + slope * slope), px)


def _outline(u, v, who: Character):
    """Signed distance to the outline of the hair around the skull."""
    style, volume = who.hair_style, VOLUME[who.hair_style]
    distance = ellipse(u, v, 0.0, -0.06 - 0.2 * volume, who.face_width + 0.02 + volume, who.face_height - 0.02 + volume)
    if style in ("curly", "afro"):
        return distance - 0.055 * bumps(4.5 * turn(u, v + 0.1)) + 0.03
    if style == "spiky":
        return distance - 0.13 * np.abs(2 * (4 * turn(u, v + 0.1) % 1) - 1) + 0.06
    return distance


def _hairline(u, who: Character):
    """v at which hair ends on the forehead and the temples, for each u."""
    style, wide = who.hair_style, np.abs(u) / who.face_width
    temple = 0.05 if style in ("short", "side", "spiky") else 0.22
    if style == "side":
        part = who.parting * 1.2
        line = FOREHEAD - 0.14 + 0.8 * (u - part) * (u - part) + 0.1 * ease((u - part) * 4 * (1 if part < 0 else -1))
    elif style == "bob":
        line = FOREHEAD - 0.01 + 0.12 * u * u + 0.012 * bumps(9 * u)
    elif style == "curtains":
        part = 0.5 * who.parting
        line = FOREHEAD - 0.20 + 0.45 * np.abs(u - part) + 0.9 * (u - part) * (u - part)
        temple = 0.42
    elif style in ("curly", "afro"):
        line = FOREHEAD - 0.04 + 0.07 * bumps(5 * u)
    elif style == "spiky":
        line = FOREHEAD - 0.06 + 0.13 * np.abs(2 * (4 * u % 1) - 1)
    elif style == "long":
        line = FOREHEAD - 0.16 + 0.9 * (u - who.parting) * (u - who.parting)
    elif style == "short":  # a tuft that falls to one side
        line = FOREHEAD - 0.08 + 0.25 * u * u + 0.07 * bumps(1.6 * (u - who.parting)) * ease(1.4 - 2 * wide)
    else:  # bun: combed back
        line = FOREHEAD - 0.05 + 0.15 * u * u
    skull = np.sqrt(np.maximum(1 - wide * wide, 0)) * -who.face_height  # no bare skull above the hairline
    return np.maximum(line, skull + 0.09) + (temple - FOREHEAD) * ease((wide - 0.74) / 0.28)
