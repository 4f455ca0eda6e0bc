"""Emotion set by hand over time: a text such as ``0-3 neutral, 3-7.5 happy, 7.5- sad``, and the track that it means.

Segments stand between commas, semicolons or line breaks, in any order. A time is in seconds (7.5) or minutes and seconds
(0:07, 1:02:03.5), to the millisecond; a segment without an end lasts until the next one begins, the last to the end of the
audio. web/timeline_grammar.js reads and writes the same, with the same sentences.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import zip_longest

from ..errors import InputError
from ..types import EMOTIONS, EmotionTrack
from ..words import printable
from .emotion import constant_emotion

NEUTRAL = EMOTIONS.index("neutral")
EXAMPLE = "0-3 neutral, 3-7.5 happy, 7.5- sad"

_SEPARATOR = re.compile("[,;\n]")
_BLANKS = " \t\r\u00a0"
_DASHES = str.maketrans("–—", "--")
_IN_TIMES = "0123456789:.-"
_TIME = re.compile(r"(?:([0-9]{1,3}):([0-5]?[0-9]):([0-5]?[0-9])|([0-9]{1,3}):([0-5]?[0-9])|([0-9]{1,6}))(?:\.([0-9]{1,3}))?")
_SHOWN = 40


@dataclass(frozen=True)
class Segment:
    """An emotion, an index into EMOTIONS, from ``start`` to ``end`` in milliseconds; an ``end`` of None is that of the audio."""

    start: int
    end: int | None
    label: int


def parse_timeline(text: str) -> tuple[Segment, ...]:
    """The segments of a text in order of time, of which only the last may be without an end; none of an empty text.

    Raises InputError with a sentence for what is no segment, no time, no emotion, ends before it begins, or overlaps.
    """
    parts = (part.strip(_BLANKS) for part in _SEPARATOR.split(text.translate(_DASHES)))
    written = sorted((_parse_segment(part) for part in parts if part), key=lambda segment: segment.start)
    segments = []
    for segment, following in zip_longest(written, written[1:]):
        if following and (segment.start == following.start or (segment.end or 0) > following.start):
            raise InputError(
                f'timeline: "{_format_segment(segment)}" and "{_format_segment(following)}" overlap. Move a border or remove one of them.'
            )
        segments.append(replace(segment, end=following.start) if following and segment.end is None else segment)
    return tuple(segments)


def format_timeline(segments: tuple[Segment, ...]) -> str:
    """The text that parse_timeline reads as ``segments``, the same for all texts of the same meaning."""
    return ", ".join(map(_format_segment, segments))


def format_time(milliseconds: int) -> str:
    """7.5, from a minute on 1:07.5, from an hour on 1:02:07.5."""
    seconds, rest = divmod(milliseconds, 1000)
    minutes, hours = seconds // 60, seconds // 3600
    text = str(seconds)
    if hours:
        text = f"{hours}:{minutes % 60:02}:{seconds % 60:02}"
    elif minutes:
        text = f"{minutes}:{seconds % 60:02}"
    return text + f".{rest:03}".rstrip("0").rstrip(".")


def timeline_track(segments: tuple[Segment, ...], filling: EmotionTrack | None = None, samples: int = 0) -> EmotionTrack:
    """``segments`` laid over ``filling``, which stays where there is none, neutral without it; runs that were set by hand have
    no probabilities.

    samples: length of the audio at ``filling.sample_rate``, 0 where only ``filling`` knows it. What comes after it is left out.
    """
    filling = filling or constant_emotion(NEUTRAL)
    samples, rate = samples or filling.samples, filling.sample_rate
    starts = [segment.start * rate // 1000 for segment in segments]
    ends = [None if segment.end is None else segment.end * rate // 1000 for segment in segments]
    heard = filling.probabilities or (None,) * len(filling.labels)
    runs, before = [], None
    for sample in sorted({*filling.starts, *starts, *ends} - {None}):
        if 0 < samples <= sample:
            break
        by_hand = bisect_right(starts, sample) - 1
        covered = by_hand >= 0 and (ends[by_hand] is None or sample < ends[by_hand])
        filled = bisect_right(filling.starts, sample) - 1
        source = (covered, by_hand if covered else filled)
        if source != before:
            runs.append((sample, segments[by_hand].label, None) if covered else (sample, filling.labels[filled], heard[filled]))
        before = source
    starts, labels, probabilities = zip(*runs, strict=True)
    return EmotionTrack(starts, labels, probabilities if any(probabilities) else None, samples, rate)


def _parse_segment(text: str) -> Segment:
    begin, dash, rest = (part.strip(_BLANKS) for part in text.partition("-"))
    word = rest.lstrip(_IN_TIMES)
    end, word = rest[: len(rest) - len(word)], word.strip(_BLANKS)
    if not dash:
        raise InputError(f"timeline: {_quoted(text)} needs times and an emotion, such as {EXAMPLE}.")
    if not begin or end.startswith("-"):
        raise InputError(f"timeline: {_quoted(text)} has a negative time. Times count from 0, where the audio begins.")
    start, stop = _parse_time(begin, text), _parse_time(end, text) if end else None
    if not word:
        raise InputError(f"timeline: {_quoted(text)} has no emotion. Add one of {', '.join(EMOTIONS)}; decimals take a point, as in 3.5.")
    if word.lower() not in EMOTIONS:
        nearest = _nearest(word.lower()[:_SHOWN])
        hint = f"Did you mean {nearest}? " if nearest else ""
        raise InputError(f"timeline: {_quoted(word)} in {_quoted(text)} is not an emotion. {hint}There are {', '.join(EMOTIONS)}.")
    if stop is not None and stop <= start:
        raise InputError(f"timeline: {_quoted(text)} must end later than it begins.")
    return Segment(start, stop, EMOTIONS.index(word.lower()))


def _parse_time(text: str, segment: str) -> int:
    """Milliseconds."""
    found = _TIME.fullmatch(text)
    if not found:
        raise InputError(
            f"timeline: {_quoted(text)} in {_quoted(segment)} is not a time. Write seconds, with three decimals at most (7.5), "
            "or minutes and seconds (1:07.5)."
        )
    *clock, decimals = found.groups()
    hours, minutes, seconds, short_minutes, short_seconds, plain = (int(part or 0) for part in clock)
    return (hours * 3600 + (minutes + short_minutes) * 60 + seconds + short_seconds + plain) * 1000 + int((decimals or "").ljust(3, "0"))


def _format_segment(segment: Segment) -> str:
    end = "" if segment.end is None else format_time(segment.end)
    return f"{format_time(segment.start)}-{end} {EMOTIONS[segment.label]}"


def _quoted(text: str) -> str:
    return f'"{printable(text[:_SHOWN])}…"' if len(text) > _SHOWN else f'"{printable(text)}"'


def _nearest(word: str) -> str | None:
    """The emotion that is at most two letters off, else one that begins with the same three."""
    near = min(EMOTIONS, key=lambda emotion: _distance(word, emotion))
    if _distance(word, near) <= 2:
        return near
    return next((emotion for emotion in EMOTIONS if emotion[:3] == word[:3]), None)


def _distance(one: str, other: str) -> int:
    """Letters to insert, remove or replace (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (letter != wanted)))
    return row[-1]
