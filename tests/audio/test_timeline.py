"""Emotion set by hand over time: its texts, the track they mean, and the picture of a track."""

import json
import re
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memo_modules.audio.drawing import COLOURS, draw_emotions
from memo_modules.audio.emotion import constant_emotion
from memo_modules.audio.timeline import Segment, format_timeline, parse_timeline, timeline_track
from memo_modules.errors import InputError
from memo_modules.types import EMOTIONS, Audio, EmotionTrack, frame_labels
from tests.helpers import timeline_cases as cases

WEB = Path(__file__).resolve().parents[2] / "web"
HAPPY, NEUTRAL, SAD = map(EMOTIONS.index, ("happy", "neutral", "sad"))
SURE = tuple(float(i == SAD) for i in range(9))
HEARD = EmotionTrack(starts=(0, 16000, 32000), labels=(SAD, SAD, HAPPY), probabilities=(SURE, SURE, (1 / 9,) * 9), samples=48000, sample_rate=16000)


@pytest.mark.parametrize("text", cases.GOOD)
def test_good_texts(text):
    assert format_timeline(parse_timeline(text)) == cases.GOOD[text]


@pytest.mark.parametrize("text", cases.BAD, ids=lambda text: repr(text[:20]))
def test_bad_texts_say_what_is_wrong(text):
    with pytest.raises(InputError) as raised:
        parse_timeline(text)
    assert str(raised.value) == f"timeline: {cases.BAD[text]}"


def test_segments_are_in_milliseconds():
    segments = parse_timeline("1:02:03.5- sad, 0-0:07.25 happy")
    assert segments == (Segment(0, 7250, HAPPY), Segment(3_723_500, None, SAD))


@given(
    st.lists(st.tuples(st.integers(1, 40_000_000), st.integers(0, 8), st.booleans()), max_size=9, unique_by=lambda row: row[0]),
    st.booleans(),
)
def test_every_timeline_survives_its_text(rows, is_open):
    rows = sorted(rows)
    borders = [0, *(time for time, _, _ in rows)]
    segments = [Segment(start, end, label) for start, (end, label, there) in zip(borders, rows, strict=False) if there]
    if is_open and segments:
        segments[-1] = Segment(segments[-1].start, None, segments[-1].label)
    text = format_timeline(tuple(segments))
    assert parse_timeline(text) == tuple(segments)
    assert format_timeline(parse_timeline(text)) == text


def test_however_it_is_written_it_is_read():
    for seed in range(200):
        segments = parse_timeline(cases.random_timeline(Random(seed)))
        assert parse_timeline(format_timeline(segments)) == segments


@given(st.text(max_size=60))
def test_no_text_breaks_it(text):
    try:
        parse_timeline(text)
    except InputError as error:
        assert str(error).startswith("timeline: ")


def track(text: str, *filling) -> EmotionTrack:
    return timeline_track(parse_timeline(text), *filling)


def test_gaps_are_neutral():
    found = track("1-2 happy, 2-3.5 sad, 4- happy")
    assert found.starts == (0, 16000, 32000, 56000, 64000) and found.labels == (NEUTRAL, HAPPY, SAD, NEUTRAL, HAPPY)
    assert (found.probabilities, found.samples, found.sample_rate) == (None, 0, 16000)
    assert frame_labels(found, 10, Fraction(2), "exact") == [NEUTRAL] * 2 + [HAPPY] * 2 + [SAD] * 3 + [NEUTRAL] + [HAPPY] * 2


def test_nothing_set_is_neutral_or_what_was_heard():
    assert track("") == constant_emotion(NEUTRAL)
    assert track("", HEARD) == HEARD


def test_what_was_heard_stays_in_the_gaps():
    found = track("0.5-1.5 neutral, 2.5- neutral", HEARD)
    assert found.starts == (0, 8000, 24000, 32000, 40000) and found.labels == (SAD, NEUTRAL, SAD, HAPPY, NEUTRAL)
    assert found.probabilities == (SURE, None, SURE, (1 / 9,) * 9, None)
    assert found.samples == 48000
    assert track("0- neutral", HEARD).probabilities is None


def test_what_is_after_the_end_of_the_audio_is_left_out():
    found = track("1-2 happy, 3-4 sad, 5- sad", HEARD)
    assert found.starts == (0, 16000, 32000) and found.labels == (SAD, HAPPY, HAPPY)
    shorter = track("1-2 happy", constant_emotion(SAD), 20000)
    assert (shorter.starts, shorter.labels, shorter.samples) == ((0, 16000), (SAD, HAPPY), 20000)


def test_a_segment_shorter_than_a_sample_moves_nothing():
    coarse = EmotionTrack(starts=(0,), labels=(SAD,), probabilities=None, samples=100, sample_rate=30)
    assert track("1-1.001 happy", coarse) == coarse


def picture(track: EmotionTrack, audio: Audio | None = None) -> torch.Tensor:
    drawn = draw_emotions(track, audio)
    assert drawn.shape == (1, 314, 720, 3) and drawn.dtype == torch.float32 and drawn.min() >= 0 and drawn.max() <= 1
    return drawn[0]


def colour(name: str) -> torch.Tensor:
    return torch.tensor([int(COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)]) / 255


def band(drawn: torch.Tensor, label: int, share: float) -> torch.Tensor:
    """A column of the band of a class, at a share of the time; its lower edge comes last."""
    return drawn[72 + label * 24 + 2 : 72 + label * 24 + 23, round(88 + share * 612)]


def test_each_class_has_its_band():
    drawn = picture(track("2-5 happy, 5- sad"))  # of ten seconds
    for label, name, share in ((NEUTRAL, "neutral", 0.05), (HAPPY, "happy", 0.25), (SAD, "sad", 0.6)):
        assert torch.allclose(band(drawn, label, share), colour(name), atol=1e-3), name
        assert not torch.allclose(band(drawn, label, 0.97 if label == HAPPY else 0.45), colour(name), atol=0.1), name


def test_heard_columns_are_as_high_as_they_are_probable():
    drawn = picture(HEARD)
    full, ninth = (
        int((band(drawn, label, share) - colour(name)).abs().amax(dim=1).lt(1e-3).sum())
        for label, name, share in ((SAD, "sad", 0.02), (HAPPY, "happy", 0.7))
    )
    assert full == 21 and ninth in (2, 3)
    assert (band(drawn, SAD, 0.7)[-2] - colour("sad") * 0.45).abs().amax() < 0.15  # not chosen, so dimmed


@pytest.mark.parametrize("samples", [1, 700, 48000])
def test_the_waveform_is_drawn_over_time(samples):
    waveform = torch.zeros(2, samples)
    waveform[1, samples // 2 :] = -0.25
    drawn = picture(track("0- sad"), Audio(waveform, 16000))
    lit = (drawn[:72, 88:700].mean(dim=2) > 0.7).sum(dim=0)
    assert (lit[310:] > 55).all()
    assert samples == 1 or (lit[:300] <= 2).all()


def test_the_browser_knows_the_same_classes_and_colours():
    def literal(name: str, file: str) -> str:
        return re.search(rf"{name} = (.*?[\]}}])\n", (WEB / file).read_text(encoding="utf-8"), re.DOTALL).group(1)

    assert tuple(json.loads(literal("EMOTIONS", "timeline_grammar.js"))) == EMOTIONS
    assert dict(re.findall(r'(\w+): "(#\w+)"', literal("COLOURS", "timeline_editor.js"))) == COLOURS
    assert tuple(COLOURS) == EMOTIONS
