"""What a config.json may say, as a table of its options: the one reader of the configurations of all models.

Such a file comes from strangers, and libraries build whatever it asks for: minutes or all memory where a number is wrong,
parts of their own choice where a name is. So nothing is built before each option was found in its range, and what is not
in the table reaches no library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from ..words import quoted


@dataclass(frozen=True)
class Option:
    """expected: in a sentence, after this word. fits: whether a value, its lists as tuples, is that."""

    expected: str
    fits: Callable[[Any], bool]


Options = Mapping[str, Option]


def whole(lowest: int, highest: int) -> Option:
    return Option(f"a whole number from {lowest} to {highest}", lambda value: _is_whole(value, lowest, highest))


def wholes(lowest: int, highest: int, least: int, most: int) -> Option:
    """A list of whole numbers, ``least`` to ``most`` of them."""
    many = str(least) if least == most else f"{least} to {most}"
    return Option(
        f"{many} whole numbers from {lowest} to {highest}",
        lambda value: isinstance(value, tuple) and least <= len(value) <= most and all(_is_whole(each, lowest, highest) for each in value),
    )


def fraction() -> Option:
    return Option("a number between 0 and 1", lambda value: type(value) in (int, float) and 0 < value < 1)


def number(lowest: float, highest: float) -> Option:
    return Option(f"a number from {lowest} to {highest}", lambda value: type(value) in (int, float) and lowest <= value <= highest)


def flag() -> Option:
    return Option("true or false", lambda value: isinstance(value, bool))


def only(*values: object) -> Option:
    """One of ``values``, lists as tuples."""
    return Option(" or ".join("null" if value is None else quoted(value) for value in values), lambda value: value in values)


def each(value: str, least: int, most: int) -> Option:
    """A list of ``least`` to ``most`` texts, each of them ``value``."""
    many = str(least) if least == most else f"{least} to {most}"
    return Option(
        f"{many} times {value!r}",
        lambda held: isinstance(held, tuple) and least <= len(held) <= most and all(part == value for part in held),
    )


def either(first: Option, second: Option) -> Option:
    return Option(f"{first.expected}, or {second.expected}", lambda value: first.fits(value) or second.fits(value))


def read_options(config: Mapping[str, object], options: Options, source: str) -> dict[str, Any]:
    """Those of ``options`` that ``config`` has, lists as tuples; null is as good as left out, and other keys are dropped.

    Raises CheckpointError naming ``source``, the key, what was expected and what was found.
    """
    known: dict[str, Any] = {}
    for name, option in options.items():
        value = config.get(name)
        if value is None:
            continue
        known[name] = _tuple(value)
        if not option.fits(known[name]):
            raise CheckpointError(f"{source}: {name}: expected {option.expected}, got {quoted(value)}, which is not supported.")
    return known


def _is_whole(value: object, lowest: int, highest: int) -> bool:
    return isinstance(value, int) and type(value) is int and lowest <= value <= highest


def _tuple(value: object) -> object:
    return tuple(map(_tuple, value)) if isinstance(value, list | tuple) else value
