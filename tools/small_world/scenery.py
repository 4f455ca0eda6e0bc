"""What is behind and below a head: the backdrop, which stands still, and neck and clothes, which half follow."""

import numpy as np

from tools.small_world.canvas import Canvas, between, box, ease, ellipse, inside
from tools.small_world.characters import Character, mix


def backdrop(who: Character, size: int) -> np.ndarray:
    """float32 (size size 3) in [0, 1]."""
    pixel = 2 / size
    axis = (np.arange(size) + 0.5) * pixel - 1
    x, y = axis[None].repeat(size, 0), axis[:, None].repeat(size, 1)
    base, dark, bright = (np.array(c) for c in (who.backdrop, mix(who.backdrop, (0.1, 0.15, 0.2), 0.3), mix(who.backdrop, (1, 1, 1), 0.45)))
    picture = np.broadcast_to(base, (size, size, 3)).copy()

    def lay(cover: np.ndarray, colour: np.ndarray) -> None:
        picture[:] += cover[..., None] * (colour - picture)

    if who.backdrop_style == "disc":
        lay(inside(ellipse(x, y, 0.0, -0.05, 0.92, 0.92), pixel), bright)
    elif who.backdrop_style == "stripes":
        slanted = x + 0.6 * y + 4
        lay(inside(np.abs(slanted % 0.5 - 0.25) - 0.125, pixel), mix(who.backdrop, (1, 1, 1), 0.2))
    elif who.backdrop_style == "window":
        side = -who.light * 0.72
        lay(inside(box(x, y, side, -0.35, 0.42, 0.62, 0.04), pixel), bright)
        bars = np.minimum(np.abs(x - side), np.abs(y + 0.35)) - 0.02
        lay(inside(bars, pixel) * inside(box(x, y, side, -0.35, 0.42, 0.62, 0.04), pixel), base)
    lay(0.35 * ease((y + 0.2) / 1.4), dark)
    return picture.astype(np.float32)


def paint_body(canvas: Canvas, who: Character) -> None:
    """Neck, shoulders and a collar. ``canvas`` has a pose that follows the head half way."""
    cloth, seam = who.clothes, mix(who.clothes, (0.05, 0.08, 0.12), 0.35)
    bright = mix(who.clothes, (1, 1, 1), 0.35)
    whole = (-1.2, 0.55, 1.2, 1.4)
    shadow = mix(who.skin, (0.42, 0.20, 0.12), 0.28)
    if who.collar == "hood":
        canvas.paint((-0.6, 0.3, 0.6, 1.1), seam, lambda u, v, px: inside(ellipse(u, v, 0.0, 0.82, 0.52, 0.30), px))
    canvas.paint((-0.3, 0.3, 0.3, 1.2), who.skin, lambda u, v, px: inside(box(u, v, 0.0, 0.7, 0.19, 0.4, 0.08), px))
    # The head throws a shadow on the neck.
    canvas.paint(
        (-0.3, 0.3, 0.3, 1.2),
        shadow,
        lambda u, v, px: inside(box(u, v, 0.0, 0.7, 0.19, 0.4, 0.08), px) * inside(ellipse(u, v, 0.0, 0.35, 0.4, 0.44), 0.06),
    )

    def shoulders(u, v, px):
        return inside(ellipse(u, v, 0.0, 1.3, 0.82, 0.52), px)

    def neckline(u, v, px, more=0.0):
        """Coverage of what the neck shows."""
        if who.collar == "v":
            return inside((np.abs(u) * 1.5 + v - 1.06 - 1.6 * more) * 0.55, px)
        return inside(ellipse(u, v, 0.0, 0.76, 0.235 + more, 0.13 + more), px)

    canvas.paint(whole, cloth, lambda u, v, px: shoulders(u, v, px) * (1 - neckline(u, v, px)))
    if who.collar == "shirt":
        for side in (-1, 1):
            canvas.paint(
                whole,
                bright,
                lambda u, v, px, side=side: inside(np.maximum(ellipse(u, v, side * 0.17, 0.87, 0.17, 0.09), -side * u + 0.015), px),
            )
        canvas.paint(whole, seam, lambda u, v, px: shoulders(u, v, px) * between(u, -0.008, 0.008, px) * ease((v - 0.86) * 20))
    elif who.collar == "hood":
        for side in (-1, 1):
            canvas.paint(whole, bright, lambda u, v, px, side=side: between(u, side * 0.14 - 0.012, side * 0.14 + 0.012, px) * ease((v - 0.88) * 20))
    else:
        canvas.paint(whole, seam, lambda u, v, px: shoulders(u, v, px) * (neckline(u, v, px, 0.035) - neckline(u, v, px)))
