"""JSON and YAML that cost their reader nothing, whatever they say: a value, or ValueError at once."""

import time
import tracemalloc

import pytest

from memo_modules.files.documents import parse_json, parse_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {k: 1, l: 2}\n" + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 7))


@pytest.mark.parametrize("text", ['{"a": [1, {"b": null}]}', b"[]", "3", "[" * 16 + "]" * 16])
def test_json(text):
    parse_json(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 17 + "]" * 17, '{"a":' * 17 + "1" + "}" * 17, "", "{", "1" * 5000])
def test_json_that_is_none_or_too_deep(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("", None), ("# only a note", None), ("a: 1\nb: [x, 2.5]", {"a": 1, "b": ["x", 2.5]}), ("a: &x [1]\nb: *x", {"a": [1], "b": [1]})],
)
def test_yaml(text, value):
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * 17 + "]" * 17, "nested too deeply"),
        ("- " * 20 + "x", "nested too deeply"),
        (BOMB, "more than 100000 values"),
        (MERGED, "more than 100000 values"),
        ("a: &a [*a]", "an alias stands in what it stands for"),
        ("x" * 2**18 + "xx", "longer than 256 kB"),
        ("a: !!bool x", "x"),
        ("a: !!int ''", ""),
        ("a: !!timestamp x", ""),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("{a: 1", "expected"),
        ("a: *b", "undefined alias"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: " + "1" * 5000, ""),
        ("a: \x00", ""),
        ("1:" * 10_000 + "1.5", ""),
    ],
)
def test_yaml_that_is_none_or_too_much(text, words):
    start = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            parse_yaml(text)
        assert words in str(error.value)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 10
