"""Pictures to look at: characters by moods, and a strip of one clip with its sound."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tools.small_world.clips import MOODS, Clip, make_clip

LABEL = 14
"""Pixels of a line of text."""


def contact_sheet(identities: Sequence[int], moods: Sequence[str] = MOODS, size: int = 128) -> Image.Image:
    """One row per mood, one column per character: the frame of two seconds of speech with the widest open eyes among
    those with an open mouth."""
    sheet = Image.new("RGB", (64 + size * len(identities), LABEL + size * len(moods)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, identity in enumerate(identities):
        draw.text((64 + column * size + 4, 1), str(identity), fill="black")
        for row, mood in enumerate(moods):
            clip = make_clip(seed=1000 * identity + row, seconds=2, mood=mood, identity=identity)
            best = int(np.argmax(clip.tracks.eyes * (clip.tracks.opening > 0.25) + 0.01 * clip.tracks.opening))
            sheet.paste(Image.fromarray(clip.frames(size, best, best + 1)[0]), (64 + column * size, LABEL + row * size))
    for row, mood in enumerate(moods):
        draw.text((4, LABEL + row * size + size // 2), mood, fill="black")
    return sheet


def strip(clip: Clip, start: int = 0, count: int = 16, size: int = 128, columns: int = 8) -> Image.Image:
    """``count`` frames from ``start`` on, each over its stretch of the sound and a bar of its mouth's opening."""
    wave = 32
    rows = -(-count // columns)
    picture = Image.new("RGB", (columns * size, rows * (size + wave)), "white")
    draw = ImageDraw.Draw(picture)
    loudest = max(1e-6, float(np.abs(clip.audio).max()))
    for i, frame in enumerate(clip.frames(size, start, start + count)):
        left, top = i % columns * size, i // columns * (size + wave)
        picture.paste(Image.fromarray(frame), (left, top))
        sound = clip.audio[(start + i) * 16000 // 30 : (start + i + 1) * 16000 // 30]
        for x, part in enumerate(np.array_split(sound, size)):
            tall = float(np.abs(part).max(initial=0)) / loudest * wave / 2
            draw.line((left + x, top + size + wave / 2 - tall, left + x, top + size + wave / 2 + tall), fill=(120, 130, 140))
        draw.rectangle((left, top + size + wave - 4, left + size * float(clip.tracks.opening[start + i]), top + size + wave - 1), fill=(200, 60, 90))
    return picture
