"""Text of others in our messages: any log can hold it, and it is never long."""

import pytest

from memo_modules import errors
from memo_modules.words import MOST_SAID, file_size, first_line, hours, printable, quoted

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["half an emoji \ud83d", "a name that is not UTF-8 \udcff", "a bell \a and a colour \x1b[31m"])
def test_every_error_can_be_written_to_any_log(kind, text):
    said = str(kind(f"name: got {text}"))
    said.encode("utf-8")
    assert said.startswith("name: got ") and "\x1b" not in said and "\a" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_says_more_than_a_page(kind):
    assert len(str(kind("a" * 10**7))) <= MOST_SAID


@pytest.mark.parametrize("text", ["数字人\u3000笑う", "soft\xadhyphen, a space\xa0that does not break", "👩‍👩‍👧 e\u0301", "two\nlines\tand a tab"])
def test_what_people_write_stays_as_it_is(text):
    assert printable(text) == text


def deep():
    value = []
    for _ in range(10**5):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["x" * 10**8, b"x" * 10**8, "\ud83d" * 500, deep(), {"a": list(range(10**5))}])
def test_a_value_is_shown_in_a_few_words(value):
    shown = quoted(value)
    shown.encode("utf-8")
    assert 0 < len(shown) <= 80


@pytest.mark.parametrize(("error", "said"), [(ValueError("one\ntwo"), "one"), (ValueError(), "ValueError"), (ValueError("\n"), "ValueError")])
def test_the_first_line_of_an_error(error, said):
    assert first_line(error) == said


@pytest.mark.parametrize(("size", "said"), [(0, "0.0 kB"), (999, "1.0 kB"), (20_480, "20.5 kB"), (1e6, "1.0 MB"), (2.5e9, "2.5 GB")])
def test_sizes_are_said_in_the_unit_that_fits(size, said):
    assert file_size(size) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (360_000, "100:00:00")])
def test_hours_are_said_to_the_second(seconds, said):
    assert hours(seconds) == said
