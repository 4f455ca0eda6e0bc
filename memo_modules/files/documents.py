"""JSON and YAML of strangers: no deeper and no larger than what looks at it can follow."""

import json
from typing import Any

DEEPEST = 16
"""Levels of lists and keys in each other."""

_MOST_VALUES = 100_000
"""Of a YAML document with its aliases written out: ten lines of them can stand for a billion."""

LARGEST_YAML = 2**18
"""Bytes: Python's YAML reads 1 MB in a minute."""


def parse_json(text: bytes | str) -> Any:
    """What JSON says. Raises ValueError when it is none, or nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [part for whole in level if isinstance(whole, dict | list) for part in (whole.values() if isinstance(whole, dict) else whole)]
    if level:
        raise ValueError("nested too deeply")
    return value


def parse_yaml(text: str) -> Any:
    """What YAML says, as plain values. Raises ValueError when it is none, nested too deeply, too long, or stands for too much."""
    import yaml

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent, index):
            self.depth += 1
            if self.depth > DEEPEST:  # its scanner takes seconds for a thousand levels
                raise ValueError("nested too deeply")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    if len(text) > LARGEST_YAML:
        raise ValueError(f"longer than {LARGEST_YAML >> 10} kB")
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {})[0] > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES} values with its aliases written out")
        return loader.construct_document(node)
    except ValueError:
        raise
    except Exception as error:  # besides its own errors what a tag meets that does not fit its text, as !!bool x
        raise ValueError(str(error) or type(error).__name__) from error


def _written_out(node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Values in a node of YAML, aliases written out, and levels. known: of nodes by their ids, None for one that is being looked at."""
    if id(node) in known:
        if (counted := known[id(node)]) is None:
            raise ValueError("an alias stands in what it stands for")
        return counted
    known[id(node)] = None
    values, levels = 1 + (len(node.value) // 64 if isinstance(node.value, str) else 0), 0  # a long text is as many
    for part in node.value if isinstance(node.value, list) else ():
        for inner in part if isinstance(part, tuple) else (part,):  # keys and values come in pairs
            more, deeper = _written_out(inner, known)
            values, levels = values + more, max(levels, deeper)
    if levels + 1 > DEEPEST:
        raise ValueError("nested too deeply")
    known[id(node)] = counted = (values, levels + 1)
    return counted
