"""A picture of emotion over time: the waveform, and below it one band per class with how sure it was heard."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..types import EMOTIONS, Audio, EmotionTrack
from .io import peak
from .timeline import format_time

COLOURS = {
    "angry": "#f28b82",
    "disgusted": "#b5cc6a",
    "fearful": "#c9a6f0",
    "happy": "#fdd663",
    "neutral": "#c4c7cc",
    "other": "#d7b899",
    "sad": "#8ab4f8",
    "surprised": "#7fd8c8",
    "unknown": "#9aa5b1",
}
"""Light enough for dark letters on each; those of web/timeline_editor.js."""

_BACKGROUND, _BAND, _INK, _DARK_INK = "#1c1e22", "#26292f", "#d0d4da", "#111111"
_WIDTH, _NAMES, _MARGIN = 720, 88, 20
_WAVEFORM, _ROW, _AXIS, _LETTERS = 72, 24, 26, 14
_SECONDS_OF_ENDLESS = 10
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
_MOST_TICKS = 10
_DIMMED = 0.45
_COVERS_TEXT = 0.75


def draw_emotions(track: EmotionTrack, audio: Audio | None = None, check_interrupt: Callable[[], None] = lambda: None) -> Tensor:
    """A picture, float32 (1 h w 3) in [0, 1]: ``audio`` over time, and ``track`` below it.

    A run that was heard is a column in each band, as high as the class is probable, the chosen one bright and with its
    percentage; a run that was set by hand fills the band of its class. ``check_interrupt`` is called with each column and
    may raise.
    """
    seconds = _seconds(track, audio)
    picture = Image.new("RGB", (_WIDTH, _WAVEFORM + len(EMOTIONS) * _ROW + _AXIS), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    left, right = _NAMES, _WIDTH - _MARGIN
    if audio is not None:
        _draw_waveform(draw, audio, left, right, check_interrupt)
    for label, emotion in enumerate(EMOTIONS):
        top = _WAVEFORM + label * _ROW
        draw.rectangle((left, top + 1, right, top + _ROW - 2), fill=_BAND)
        draw.text((left - 8, top + _ROW / 2), emotion, fill=_INK, font=_font(), anchor="rm")
    stops = [*track.starts[1:], track.samples or seconds * track.sample_rate]
    per_sample = (right - left) / (seconds * track.sample_rate)
    heard = track.probabilities or (None,) * len(track.starts)
    for start, stop, label, probabilities in zip(track.starts, stops, track.labels, heard, strict=True):
        _draw_run(draw, left + start * per_sample, left + min(stop * per_sample, right - left), label, probabilities)
    _draw_axis(draw, left, right, seconds)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def _seconds(track: EmotionTrack, audio: Audio | None) -> float:
    """What the picture shows: all of the sound, else somewhat more than the last change."""
    if audio is not None:
        return audio.waveform.shape[1] / audio.sample_rate
    return track.samples / track.sample_rate or max(_SECONDS_OF_ENDLESS, 1.25 * track.starts[-1] / track.sample_rate)


def _draw_waveform(draw: ImageDraw.ImageDraw, audio: Audio, left: int, right: int, check_interrupt: Callable[[], None]) -> None:
    """The loudest of each column, of all channels; the loudest of all fills the height."""
    borders = torch.linspace(0, audio.waveform.shape[1], right - left + 1, dtype=torch.float64).long().tolist()
    spans = [audio.waveform[:, start : max(stop, start + 1)] for start, stop in pairwise(borders)]
    peaks = [peak(Audio(span, audio.sample_rate), check_interrupt) for span in spans]
    loudest, middle = max(peaks) or 1, _WAVEFORM / 2
    for column, loud in enumerate(peaks):
        height = loud / loudest * (middle - 6)
        draw.line((left + column, middle - height, left + column, middle + height), fill=_INK)


def _draw_run(draw: ImageDraw.ImageDraw, begin: float, end: float, label: int, probabilities: tuple[float, ...] | None) -> None:
    sure = probabilities or [float(index == label) for index in range(len(EMOTIONS))]
    for index, probability in enumerate(sure):
        bottom = _WAVEFORM + index * _ROW + _ROW - 2
        height = round(probability * (_ROW - 3))
        if height:
            colour = COLOURS[EMOTIONS[index]] if index == label else _mixed(COLOURS[EMOTIONS[index]], _BAND, _DIMMED)
            draw.rectangle((round(begin), bottom - height, max(round(end) - 1, round(begin)), bottom), fill=colour)
    said = "set" if probabilities is None else f"{probabilities[label]:.0%}"
    if draw.textlength(said, font=_font()) + 6 < end - begin:
        place = ((begin + end) / 2, _WAVEFORM + (label + 0.5) * _ROW)
        if sure[label] > _COVERS_TEXT:
            draw.text(place, said, fill=_DARK_INK, font=_font(), anchor="mm")
        else:
            draw.text(place, said, fill=_INK, font=_font(), anchor="mm", stroke_width=2, stroke_fill=_BAND)


def _draw_axis(draw: ImageDraw.ImageDraw, left: int, right: int, seconds: float) -> None:
    step = next((step for step in _TICKS if seconds / step <= _MOST_TICKS), seconds / _MOST_TICKS)
    top = _WAVEFORM + len(EMOTIONS) * _ROW
    for tick in range(int(seconds / step) + 1):
        x = left + (right - left) * tick * step / seconds
        draw.line((x, top, x, top + 4), fill=_INK)
        draw.text((x, top + 6), format_time(round(tick * step * 1000)), fill=_INK, font=_font(), anchor="ma")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_LETTERS)


def _mixed(colour: str, other: str, share: float) -> str:
    """``share`` of a colour in another."""
    pairs = ((int(colour[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * one + (1 - share) * two):02x}" for one, two in pairs)
