"""How long what a search found is looked into: a link may lead to a slow server with thousands of models.

As in walking.py, what was found by then is taken for all for a while, since the next time would take as long.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import walking
from .walking import KEPT, Folder

logger = logging.getLogger(__name__)

_OWN_TIME, _LINKED_TIME = (30.0, 2_000), (5.0, 100)
"""Seconds of judging what is in all roots, and files and folders of each, for each role, that are judged however long they take."""


@dataclass(frozen=True)
class Verdict:
    """Of a file or folder. meant: it holds what the role takes, or should. fault: why it cannot be loaded."""

    meant: bool
    fault: str | None = None


@dataclass
class _Part:
    """What was judged for a role of what lies in a root, or of what links in it lead to. left_out: whether there was more."""

    seconds: float
    certain: int
    verdicts: dict[Path, Verdict] = field(default_factory=dict)
    spent: float = 0.0
    left_out: bool = False
    until: float = 0.0


_given_up: dict[tuple[str, Path, bool], _Part] = {}
"""By role, root and whether it is of its links: parts of which something was left out."""


def forget() -> None:
    """Search and judge anew what was too much: something was put there."""
    walking.forget()
    _given_up.clear()


class Judging:
    """Of what was found below ``root`` for a ``role``. refused: name below the root to why not all was judged."""

    def __init__(self, role: str, root: Path):
        self._role, self._root = role, root
        self._parts = {linked: self._part(linked) for linked in (False, True)}
        self.refused: dict[str, str] = {}

    def _part(self, linked: bool) -> _Part:
        now = time.monotonic()
        part = _given_up.get((self._role, self._root, linked))
        if part and now < part.until:
            return part
        seconds, certain = _LINKED_TIME if linked else _OWN_TIME
        spent = sum(other.spent for (_, _, kind), other in _given_up.items() if kind == linked and now < other.until)
        return _Part(max(0.0, seconds - spent), certain)

    def verdict(self, path: Path, folder: Folder, judge: Callable[[], Verdict]) -> Verdict:
        """What ``judge`` says of ``path`` in ``folder``; that nothing is meant by it where it is left out."""
        part = self._parts[folder.link is not None]
        if not part.left_out and part.spent > part.seconds and len(part.verdicts) >= part.certain:
            part.left_out, part.until = True, time.monotonic() + KEPT
            _given_up[self._role, self._root, folder.link is not None] = part
            logger.warning("%s", self._reason(folder, part))
        if part.left_out:
            if path not in part.verdicts:
                name = folder.link.relative_to(self._root).as_posix() if folder.link else self._root.name
                self.refused.setdefault(name, self._reason(folder, part))
            return part.verdicts.get(path, Verdict(False))
        begin = time.monotonic()
        try:
            verdict = part.verdicts[path] = judge()
        finally:
            part.spent += time.monotonic() - begin
        return verdict

    def _reason(self, folder: Folder, part: _Part) -> str:
        advice = "Let the link lead to the folder of the models alone" if folder.link else "Move what is no model of this kind out of it"
        return (
            f"{folder.link or self._root} {'leads to' if folder.link else 'holds'} more files than can be looked into: after {len(part.verdicts)} of "
            f"them, in {part.spent:.0f} seconds, the rest was left out. {advice}."
        )
