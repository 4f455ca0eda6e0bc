"""The browser reads emotion over time as the library does: the same segments, the same text, the same sentences."""

import base64
import json
from pathlib import Path
from random import Random

import pytest

from memo_modules.audio.timeline import format_timeline, parse_timeline
from memo_modules.errors import InputError
from tests.helpers import timeline_cases as cases
from tools.chromium import Chromium

pytestmark = pytest.mark.browser

GRAMMAR = Path(__file__).resolve().parents[2] / "web" / "timeline_grammar.js"
READ_ALL = """import("data:text/javascript;base64,{module}").then(({{ parseTimeline, formatTimeline }}) => {texts}.map(text => {{
    try {{
        const segments = parseTimeline(text)
        return [formatTimeline(segments), segments.map(({{ start, end, label }}) => [start, end, label])]
    }} catch (error) {{
        return error.message
    }}
}}))"""


def in_the_library(text: str) -> list | str:
    try:
        segments = parse_timeline(text)
    except InputError as error:
        return str(error)
    return [format_timeline(segments), [[segment.start, segment.end, segment.label] for segment in segments]]


@pytest.fixture(scope="module")
def in_the_browser(chromium, tmp_path_factory):
    module = base64.b64encode(GRAMMAR.read_bytes()).decode()
    with Chromium(chromium, tmp_path_factory.mktemp("profile")) as page:
        yield lambda texts: page.evaluate(READ_ALL.format(module=module, texts=json.dumps(texts)))


def test_they_agree_on_the_table(in_the_browser):
    texts = [*cases.GOOD, *cases.BAD]
    assert in_the_browser(texts) == list(map(in_the_library, texts))


def test_they_agree_on_a_thousand_random_timelines(in_the_browser):
    texts = [cases.random_timeline(Random(seed)) for seed in range(1000)]
    expected = list(map(in_the_library, texts))
    assert not [found for found in expected if isinstance(found, str)]
    assert in_the_browser(texts) == expected


def test_they_agree_on_a_thousand_spoilt_ones(in_the_browser):
    texts = [cases.spoilt(cases.random_timeline(Random(seed)), Random(seed)) for seed in range(1000)]
    expected = list(map(in_the_library, texts))
    assert sum(isinstance(found, str) for found in expected) > 500
    assert in_the_browser(texts) == expected
