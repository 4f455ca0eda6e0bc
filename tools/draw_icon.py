"""Draws the pack's icon and banner into assets/: a face that speaks, its past fading behind it, over the sound of its voice.

python3 -m tools.draw_icon; it needs Pillow.
"""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ASSETS = Path(__file__).resolve().parents[1] / "assets"
FINE = 4  # drawn as many times larger, for smooth edges

NIGHT, DUSK, VOICE, SKIN, HAIR, INK = (24, 20, 48), (62, 40, 110), (255, 170, 90), (250, 226, 205), (196, 92, 70), (46, 30, 74)
PAST = 4
"""Faces behind the one that speaks."""


def background(width: int, height: int) -> Image.Image:
    column = Image.linear_gradient("L").resize((width, height))
    return Image.composite(Image.new("RGB", (width, height), DUSK), Image.new("RGB", (width, height), NIGHT), column)


def face(picture: Image.Image, behind: Image.Image, x: float, y: float, radius: float, open_by: float, strength: float) -> None:
    """A face around (x, y); open_by: of the mouth, 0 to 1. strength: how much of it is there, 0 to 1; through the rest shows
    what is ``behind``, and no other face."""
    layer = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(layer)

    def box(dx: float, dy: float, half_width: float, half_height: float) -> tuple[float, float, float, float]:
        left, top = x + (dx - half_width) * radius, y + (dy - half_height) * radius
        return left, top, left + 2 * half_width * radius, top + 2 * half_height * radius

    draw.ellipse(box(0, 0, 0.84, 1), fill=SKIN)
    draw.chord(box(0, 0, 0.84, 1), 200, 340, fill=HAIR)
    for side in (-1, 1):
        draw.ellipse(box(side * 0.32, 0, 0.085, 0.12), fill=INK)
    draw.chord(box(0, 0.36, 0.34, 0.05 + 0.36 * open_by), 0, 180, fill=INK)
    outline = layer.getchannel("A")
    picture.paste(behind, mask=outline)
    picture.paste(layer, mask=outline.point(lambda alpha: round(alpha * strength)))


def voice(picture: Image.Image, left: float, right: float, y: float, height: float, bars: int) -> None:
    """Bars around the height y, as high as a voice is loud."""
    draw, step = ImageDraw.Draw(picture), (right - left) / bars
    for bar in range(bars):
        part = (bar + 0.5) / bars
        loud = (0.25 + 0.75 * abs(math.sin(part * 9.4) * math.cos(part * 23))) * math.sin(math.pi * part) ** 0.5
        x, half = left + (bar + 0.5) * step, max(loud * height / 2, step * 0.3)
        draw.rounded_rectangle((x - step * 0.3, y - half, x + step * 0.3, y + half), step * 0.3, fill=VOICE)


def speaker(picture: Image.Image, x: float, y: float, radius: float, apart: float) -> None:
    """The face that speaks, and to its left what it remembers, the fainter the longer ago."""
    behind = picture.copy()
    for ago in range(PAST, -1, -1):
        face(picture, behind, x - ago * apart * radius, y, radius * 0.94**ago, 0.5 + 0.5 * math.cos(2.1 * ago), 0.6**ago)


def icon(size: int = 400) -> Image.Image:
    big = size * FINE
    picture = background(big, big)
    speaker(picture, big * 0.6, big * 0.42, big * 0.28, 0.26)
    voice(picture, big * 0.08, big * 0.92, big * 0.84, big * 0.2, 17)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def banner(width: int = 1260, height: int = 540) -> Image.Image:
    wide, high = width * FINE, height * FINE
    picture = background(wide, high)
    speaker(picture, wide * 0.35, high * 0.42, high * 0.29, 0.5)
    voice(picture, wide * 0.04, wide * 0.96, high * 0.85, high * 0.2, 61)
    draw = ImageDraw.Draw(picture)
    draw.text((wide * 0.53, high * 0.2), "ComfyUI-MEMO", font=ImageFont.load_default(high * 0.14), fill=SKIN)
    for line, text in enumerate(("A portrait and a voice", "become a talking video.")):
        draw.text((wide * 0.532, high * (0.4 + 0.09 * line)), text, font=ImageFont.load_default(high * 0.07), fill=VOICE)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    icon().save(ASSETS / "icon.png", optimize=True)
    banner().save(ASSETS / "banner.png", optimize=True)
