"""Unfinished videos go when they have been left for long, or take too much; no clock that is wrong makes them go earlier."""

import json
import os
import time
from dataclasses import replace
from datetime import date, timedelta
from types import SimpleNamespace

import pytest

from memo_modules.errors import InputError
from memo_modules.video import unfinished
from memo_modules.video.journal import opened
from memo_modules.video.unfinished import DAY, INPUTS, LOCK, SEEN, clean
from tests.helpers.journals import MADE_OF, equal, fill, state

KEPT = 14 * DAY
NOW = time.time()


class World:
    """Sessions, one after the other, and the clock that each of them believes."""

    def __init__(self, root, patch):
        self.root, self.patch, self.ran = root, patch, 0.0
        self.session(NOW)

    def session(self, clock: float) -> None:
        """Another process begins, whose clock says so."""
        self.clock = clock
        self.patch.setattr(unfinished, "_own", set())
        self.patch.setattr(unfinished, "_counted", {})
        fake = SimpleNamespace(time=lambda: self.clock, monotonic=lambda: self.ran, ctime=time.ctime, mktime=time.mktime)
        self.patch.setattr(unfinished, "time", fake)

    def make(self, seed: str, clips: int = 1, written: float | None = None):
        """A journal of this session, whose files say that they were written at a time, by default now."""
        with opened(self.root, "video", replace(MADE_OF, exact={"seed": seed})) as made:
            fill(made, clips)
        for path in made.folder.iterdir():
            os.utime(path, (0, self.clock if written is None else written))
        return made.folder

    def days(self, first: float, count: int, size: float = float("inf")) -> None:
        """So many sessions, one a day, each of which makes another video."""
        for day in range(count):
            self.session(first + day * DAY)
            clean(self.root, KEPT, size)

    def there(self) -> set[str]:
        return {path.name for path in self.root.iterdir()}


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def size_of(folder) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name not in (LOCK, SEEN))


def test_what_was_left_for_long_goes_and_nothing_else(world, tmp_path):
    left, other = world.make("1"), tmp_path / "somebody's"
    other.mkdir()
    world.days(NOW, 14)
    assert left.exists(), "not yet"
    fresh = world.make("2")
    world.days(NOW + 14 * DAY, 2)
    assert world.there() == {fresh.name, other.name}


def test_of_what_takes_too_much_the_oldest_goes_first(world):
    folders = []
    for number in range(3):
        world.session(NOW + number * DAY)
        folders.append(world.make(str(number), 2))
        world.session(world.clock)
        clean(world.root, KEPT, float("inf"))
    world.session(NOW + 4 * DAY)
    clean(world.root, KEPT, size_of(folders[0]) * 3 // 2)
    assert world.there() == {folders[2].name}


def test_what_was_left_today_is_not_removed_for_its_size(world):
    """Another ComfyUI that shares the folder may be about to continue it."""
    left = world.make("1", 3)
    world.session(NOW + 60)
    clean(world.root, KEPT, 0)
    assert left.exists()


def test_what_a_session_has_worked_on_it_never_removes(world):
    own = world.make("1", 3, written=NOW - 100 * DAY)
    (own / SEEN).write_text(json.dumps([(date.fromtimestamp(NOW) - timedelta(day)).isoformat() for day in range(50)]))
    clean(world.root, KEPT, 0)
    assert own.exists()
    world.session(NOW)
    clean(world.root, KEPT, 0)
    assert not own.exists(), "the same is removed by the next session"


def test_the_video_to_continue_is_never_removed_and_others_need_not_go_for_it(world):
    left, small = world.make("42", 9), world.make("2")
    world.days(NOW, 13)
    assert (left / SEEN).exists()
    world.session(NOW + 30 * DAY)
    with opened(world.root, "video", replace(MADE_OF, exact={"seed": "42"}), 60 * DAY, size_of(small)) as again:
        assert equal(again.state(None), state(9)) and not (again.folder / SEEN).exists(), "it is not left any more"
        assert world.there() == {left.name, small.name}


def test_what_another_process_has_open_is_never_removed(world):
    with opened(world.root, "video", MADE_OF) as made:
        fill(made, 2)
        world.session(NOW)
        world.days(NOW, 40, 0)
        assert len(list(made.folder.glob("clip-*"))) == 4


CLOCKS = {
    "it jumps ahead once": [NOW + 400 * DAY],
    "it jumps ahead and back, again and again": [NOW + 400 * DAY, NOW] * 20,
    "it jumps back": [0.0, NOW - 300 * DAY],
    "1970": [0.0, 1.0] * 20,
    "before 1970": [-1e12] * 20,
    "the end of time": [1e15, 1e300] * 20,
    "the same day, however often": [NOW + 100 * DAY] * 40,
}


@pytest.mark.parametrize("written", [0.0, 1e9, NOW - 1, NOW + 900 * DAY], ids=["in 1970", "in 2001", "now", "in years"])
@pytest.mark.parametrize("clocks", CLOCKS.values(), ids=CLOCKS)
def test_a_clock_that_is_wrong_removes_nothing(world, clocks, written):
    left = world.make("1", written=written)
    for clock in clocks:
        world.session(clock)
        clean(world.root, KEPT, float("inf"))
    assert len(list(left.glob("clip-*"))) == 2


def test_what_was_written_in_1970_goes_when_it_has_been_seen_for_long(world):
    left = world.make("1", written=0.0)
    world.days(NOW, 14)
    assert left.exists()
    world.days(NOW + 14 * DAY, 2)
    assert not left.exists()


def test_a_session_counts_the_days_that_it_runs_itself(world):
    left = world.make("1")
    world.session(NOW)
    for day in range(16):
        for clock in (NOW + day * DAY, NOW + day * DAY + 1000 * DAY):  # the second is the clock's own idea
            world.clock = clock
            clean(world.root, KEPT, float("inf"))
        assert left.exists() == (day < 14), day
        world.ran += DAY


@pytest.mark.parametrize("content", [b"", b"[", b"[" * 100_000, b'{"a": 1}', b"7", b"[7, null]", b'["2026-99-01"]', b"\xff", b'["' + b"9" * 70_000])
def test_a_list_of_days_that_is_damaged_counts_for_nothing(world, content):
    left = world.make("1")
    for day in range(40):
        (left / SEEN).write_bytes(content)
        world.session(NOW + day * DAY)
        clean(world.root, KEPT, 0)
    assert left.exists()


def test_a_list_that_cannot_be_written_counts_for_nothing(world):
    left = world.make("1")
    (left / SEEN).mkdir()
    world.days(NOW, 40, 0)
    assert left.exists()


def test_what_is_no_lock_is_named_and_nothing_is_removed(world, tmp_path):
    mine = tmp_path.parent / "mine.txt"
    mine.write_text("mine")
    left = world.make("1")
    (left / LOCK).unlink(missing_ok=True)
    (left / LOCK).symlink_to(mine)
    world.days(NOW, 40, 0)
    with (
        pytest.raises(InputError, match="lock is not a file that this pack has made. Remove it"),
        opened(world.root, "video", replace(MADE_OF, exact={"seed": "1"})),
    ):
        pass
    assert mine.read_text() == "mine" and (left / INPUTS).exists()
