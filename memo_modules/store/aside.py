"""Work that cannot be interrupted, in a thread of its own: whoever waits for it hears Cancel at any moment."""

import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

T = TypeVar("T")

TICK = 0.1
"""Seconds between two looks at whether to continue."""

_AHEAD = 16  # of what is handed over; a download is not read into memory faster than the disk takes it
_END = object()


class AsideError(Exception):
    """The work failed with ``cause``. What ``check_interrupt`` raises comes as itself."""

    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


class _Left(BaseException):
    """Raised in the thread when nobody waits for it any more."""


def given(
    work: Callable[[Callable[[T], None]], object], check_interrupt: Callable[[], None], patience: float | None = None
) -> "closing[Generator[T, None, None]]":
    """A context manager: within, iterate over what ``work`` hands to the function that it gets, in order.

    ``check_interrupt`` is asked meanwhile, and may raise. On leaving, the thread ends with the next that it hands over; one
    that waits for a silent server until that gives up holds a connection and nothing else, and keeps no process from ending.
    patience: seconds until the first. Raises AsideError when ``work`` fails or takes longer.
    """
    return closing(_given(work, check_interrupt, patience))


def result(work: Callable[[], T], check_interrupt: Callable[[], None], patience: float | None = None) -> T:
    """What ``work`` returns; see ``given``."""

    def once(give: Callable[[T], None]) -> None:
        give(work())

    with given(once, check_interrupt, patience) as results:
        return next(results)


def called(work: Callable[[], T], check_interrupt: Callable[[], None]) -> T:
    """What ``work`` returns; raises what it raises."""
    try:
        return result(work, check_interrupt)
    except AsideError as error:
        raise error.cause from None


def wait(seconds: float, check_interrupt: Callable[[], None]) -> None:
    """Sleep, asking for an interrupt meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_interrupt()
        time.sleep(min(left, TICK))


def _given(work: Callable[[Callable[[T], None]], object], check_interrupt: Callable[[], None], patience: float | None) -> Generator[T, None, None]:
    handed, left = queue.Queue(_AHEAD), threading.Event()
    threading.Thread(target=_run, args=(work, handed, left), daemon=True).start()
    end = None if patience is None else time.monotonic() + patience
    try:
        while True:
            check_interrupt()
            try:
                item, failure = handed.get(timeout=TICK)
            except queue.Empty:
                if end is not None and time.monotonic() > end:
                    raise AsideError(TimeoutError(f"no answer within {patience:.0f} seconds")) from None
                continue
            if failure:
                raise AsideError(failure) from failure
            if item is _END:
                return
            end = None
            yield item
    finally:
        left.set()


def _run(work, handed: queue.Queue, left: threading.Event) -> None:
    def give(item, failure=None) -> None:
        while not left.is_set():
            try:
                return handed.put((item, failure), timeout=TICK)
            except queue.Full:
                pass
        raise _Left

    try:
        try:
            work(give)
        except Exception as failure:
            give(None, failure)
        else:
            give(_END)
    except _Left:
        pass
