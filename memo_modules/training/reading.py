"""Reading that does not end a training: a file that cannot be read is tried again, and then skipped, counted and named."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

TRIES = 3
"""A network disk may have answered late; a damaged file is as damaged the third time."""

_PAUSE = 0.2
"""Seconds before the second try, and twice as many before the third."""

_log = logging.getLogger(__name__)
_named: set[str] = set()


def read_or_none(read: Callable[[], Value], name: str) -> Value | None:
    """What ``read`` returns, None if it has failed TRIES times; then a warning names it, once in a process."""
    for number in range(1, TRIES + 1):
        try:
            return read()
        except MemoryError:
            raise
        except Exception as error:  # decoders and disks fail in many ways
            if number < TRIES:
                time.sleep(number * _PAUSE)
                continue
            if name not in _named:
                _named.add(name)
                _log.warning("%s cannot be read and is skipped: %s", name, error)
    return None
