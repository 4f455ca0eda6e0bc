"""Voices of the small world for its audio models: those they hear in training, and others that they never hear."""

from collections.abc import Callable, Iterator

from memo_modules.types import EMOTIONS
from tools.small_world import Clip, make_clip

HEARD, UNHEARD = 1 << 40, 2 << 40
"""First seeds of the voices for training and for judging: far from each other and from the worlds' own."""

SILENT_MOODS = ("other", "unknown")
"""They sound as neutral in the small world, so that nobody could tell them by ear."""

AUDIBLE_MOODS = tuple(mood for mood in EMOTIONS if mood not in SILENT_MOODS)

SECONDS = 8.0
"""Of a voice."""


def voices(
    count: int, seed: int, first: int = HEARD, progress: Callable[[int, int], None] = lambda done, total: None, words: bool = False
) -> Iterator[Clip]:
    """``count`` voices of as many speakers, SECONDS each; with ``words`` every second of either kind speaks some, the others babble.

    Half of them have the moods that the world draws by itself, of which some change on the way, the others go through
    AUDIBLE_MOODS in turn.
    """
    for i in range(count):
        mood = AUDIBLE_MOODS[i // 2 % len(AUDIBLE_MOODS)] if i % 2 else None
        yield make_clip(first + (seed << 20) + i, SECONDS, mood, words=words and i // 2 % 2 == 0)
        progress(i + 1, count)
