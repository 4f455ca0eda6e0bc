"""Charts and sheets, drawn with pillow alone."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tools.evaluation.readings import Reading
from tools.small_world import FPS, MOODS

COLOURS = ((34, 84, 148), (206, 92, 40), (62, 132, 72), (140, 70, 150), (120, 100, 60), (30, 140, 150), (180, 50, 80), (90, 90, 90))
INK, PALE = (40, 44, 52), (222, 225, 230)
LABEL = 14
"""Pixels of a line of text."""


def lines(title: str, series: dict[str, tuple[np.ndarray, np.ndarray]], x_label: str, y_range: tuple[float, float] | None = None) -> Image.Image:
    """A line chart, 900 x 320. series: name to x and y; NaNs are left out."""
    picture, draw = _sheet(900, 320, title)
    left, top, right, bottom = 50, 24, 690, 284
    xs = np.concatenate([x for x, _ in series.values()])
    ys = np.concatenate([y[np.isfinite(y)] for _, y in series.values()])
    x0, x1 = float(xs.min()), float(max(xs.max(), xs.min() + 1e-6))
    y0, y1 = y_range or (min(0.0, float(ys.min(initial=0))), float(ys.max(initial=0)) * 1.05 + 1e-6)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) / (x1 - x0) * (right - left), bottom - (min(max(y, y0), y1) - y0) / (y1 - y0) * (bottom - top)

    for i in range(5):
        share = i / 4
        y, x = y0 + share * (y1 - y0), x0 + share * (x1 - x0)
        draw.line((*at(x0, y), *at(x1, y)), fill=PALE)
        draw.text((4, at(x0, y)[1] - 6), f"{y:.3g}", fill=INK)
        draw.text((at(x, y0)[0] - 8, bottom + 4), f"{x:.3g}", fill=INK)
    draw.text((left, bottom + 18), x_label, fill=INK)
    for number, (name, (x, y)) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [at(a, b) for a, b in zip(x, y, strict=True) if np.isfinite(b)]
        if points:
            draw.line(points, fill=colour, width=2)
        draw.rectangle((right + 14, top + 16 * number + 4, right + 26, top + 16 * number + 8), fill=colour)
        draw.text((right + 32, top + 16 * number), name, fill=INK)
    return picture


def bars(title: str, groups: dict[str, dict[str, float | None]], best: float = 1.0) -> Image.Image:
    """Horizontal bars. groups: figure to (variant to value); each figure has an axis of its own, from 0 to at least ``best``."""
    rows = sum(len(values) + 2 for values in groups.values())
    picture, draw = _sheet(640, 24 + rows * LABEL, title)
    left, right, y = 230, 570, 24
    for figure, values in groups.items():
        draw.text((4, y), figure, fill=INK)
        y += LABEL
        top = max([best, *(v for v in values.values() if v is not None)])
        for number, (name, value) in enumerate(values.items()):
            draw.text((14, y), name, fill=INK)
            if value is None:
                draw.text((left, y), "-", fill=INK)
            else:
                draw.rectangle((left, y + 3, left + max(0.0, value) / top * (right - left), y + LABEL - 3), fill=COLOURS[number % len(COLOURS)])
                draw.text((left + max(0.0, value) / top * (right - left) + 4, y), f"{value:.3f}", fill=INK)
            y += LABEL
        y += LABEL
    return picture


def confusions(matrices: dict[str, np.ndarray]) -> Image.Image:
    """One square per variant: rows are commanded moods, columns the ones seen, in percent of the row."""
    cell, pad = 44, 64
    side = pad + cell * len(MOODS) + 16
    picture, draw = _sheet(max(400, side * len(matrices)), 24 + LABEL + side - pad + 4, "moods: commanded (rows), seen (columns), percent")
    for i, (name, counts) in enumerate(matrices.items()):
        left, top = side * i, 24
        draw.text((left + 4, top), name, fill=INK)
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        for row, mood in enumerate(MOODS):
            y = top + 2 * LABEL + cell * row
            draw.text((left + 4, y + cell // 2 - 6), mood, fill=INK)
            draw.text((left + pad + cell * row, top + LABEL), mood, fill=INK)
            for column, share in enumerate(shares[row]):
                x = left + pad + cell * column
                shade = tuple(int(255 - (255 - c) * share) for c in COLOURS[0])
                draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=shade)
                draw.text((x + 12, y + cell // 2 - 6), f"{100 * share:.0f}", fill="white" if share > 0.5 else INK)
    return picture


def sheet(readings: Sequence[Reading]) -> Image.Image:
    """Characters by moods by time: for each video a row of true frames, and under it the generated ones of the same moments."""
    size, count = readings[0].shown.shape[1], len(readings[0].shown)
    pad, height = 92, LABEL + 2 * size + 6
    picture, draw = _sheet(pad + size * count, 20 + height * len(readings), "true above, generated below")
    for row, reading in enumerate(readings):
        top = 20 + row * height
        times = np.linspace(0, len(reading.identity) - 1, count).round() / FPS
        for column, (true, made, when) in enumerate(zip(reading.true, reading.shown, times, strict=True)):
            left = pad + column * size
            draw.text((left + 2, top), f"{when:.2f} s", fill=INK)
            picture.paste(Image.fromarray(true), (left, top + LABEL))
            picture.paste(Image.fromarray(made), (left, top + LABEL + size))
        for line, text in enumerate((f"character {reading.case.identity}", reading.case.mood)):
            draw.text((4, top + LABEL * (line + 1)), text, fill=INK)
    return picture


def seams(reading: Reading) -> Image.Image:
    """Two frames before and two after some clip borders, and eight times the changes between them."""
    size, around = reading.around.shape[2], reading.around.astype(int)
    title = "two frames before and two after a clip border, and their changes times eight: the middle one is the border's"
    picture, _ = _sheet((4 + 3) * size, 36 + size * len(around), title)
    for row, frames in enumerate(around):
        changes = np.minimum(255, 8 * np.abs(np.diff(frames, axis=0)))
        for column, frame in enumerate([*frames, *changes]):
            picture.paste(Image.fromarray(frame.astype(np.uint8)), (column * size, 36 + row * size))
    return picture


def lips(readings: Sequence[Reading]) -> Image.Image:
    """True and seen opening of the mouth over time, one chart under the other."""
    charts = []
    for reading in readings:
        seconds = np.arange(len(reading.opening[0])) / FPS
        case = reading.case
        name = f"character {case.identity}, {case.mood}: opening of the mouth"
        charts.append(lines(name, {"true": (seconds, reading.opening[1]), "seen": (seconds, reading.opening[0])}, "seconds", (0, 1)))
    return stacked(charts)


def drift(readings: dict[str, Reading]) -> Image.Image:
    """Distance to the portrait, and error of the backdrop, second by second."""

    def per_second(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = values[: len(values) // FPS * FPS].reshape(-1, FPS).mean(axis=1)
        return np.arange(len(whole)) + 0.5, whole

    identity = {name: per_second(reading.identity) for name, reading in readings.items()}
    backdrops = {name: per_second(reading.backdrop) for name, reading in readings.items()}
    return stacked(
        [lines("distance to the portrait (1: another character)", identity, "seconds"), lines("error of the backdrop", backdrops, "seconds")]
    )


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def _sheet(width: int, height: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((4, 4), title, fill=INK)
    return picture, draw
