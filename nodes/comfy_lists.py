"""Lists in a node that samples: the good items are kept when others fail, and what can be refused is refused before the first is sampled."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context

from ..memo_modules.errors import InputError, MemoError
from . import comfy_adapter as adapter


@dataclass(frozen=True)
class Item:
    """One of ``count`` items of a list, number ``number`` from 0. shared: what several of them have in common, see ``once``."""

    number: int
    count: int
    shared: dict = field(default_factory=dict, compare=False)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made for the first item that asks for it by this key."""
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def __str__(self) -> str:
        return f"item {self.number + 1} of {self.count}"


class ListNode(io.ComfyNode):
    """A node that gets lists (``is_input_list``) and gives lists: of each item of its inputs an item of its outputs."""

    SHOWN: Mapping[str, Sequence] = MappingProxyType({})
    """What the front end has to know of the files that show the items."""

    @classmethod
    def prepare(cls, item: Item, **inputs) -> Any:
        """What ``make`` needs; raises MemoError for what cannot be made. It is called for all items before the first is made. Its ``journal()``
        opens what ``make`` keeps of an item of several, until all are made."""
        raise NotImplementedError

    @classmethod
    def make(cls, prepared: Any, notes: Sequence[str]) -> tuple[tuple, list]:
        """The outputs of an item, and the files that show it. notes: what was said of other items."""
        raise NotImplementedError

    @classmethod
    def execute(cls, **lists) -> io.NodeOutput:
        dealt = items(lists)
        shared: dict = {}
        places = [Item(number, len(dealt), shared) for number in range(len(dealt))]
        failed: dict[Item, str] = {}

        def attempt(place: Item, work: Callable[[], Any]) -> Any:
            try:
                return work()
            except MemoError as error:
                if place.count == 1:
                    raise
                failed[place] = f"{place}: {error} It is left out."
                adapter.host(cls.hidden.unique_id).say(" ".join(failed.values()))

        ready = {place: attempt(place, partial(cls.prepare, place, **values)) for place, values in zip(places, dealt, strict=True)}
        made = {}
        for place in places:
            if place not in failed:
                made[place] = attempt(place, partial(cls.make, ready[place], list(failed.values())))
        good = [made[place] for place in places if place not in failed]
        if not good:
            raise InputError(" ".join(failed.values()))
        for prepared in ready.values() if len(places) > 1 and not failed else ():
            with prepared.journal() as kept:
                kept.remove()
        blocked = (ExecutionBlocker(None),) * len(good[0][0])  # keeps the places of the others, in its other outputs, too
        outputs = zip(*(blocked if place in failed else made[place][0] for place in places), strict=True)
        shown: dict[str, Any] = {"images": [file for _, files in good for file in files], **cls.SHOWN}
        if failed:
            shown["text"] = list(failed.values())
        return io.NodeOutput(*map(list, outputs), ui=shown)


def items(lists: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """The values of each item, as ComfyUI deals them out to a node without lists: the last one of a shorter list stands for those that lack.

    Raises InputError for a list with nothing in it.
    """
    for name, values in lists.items():
        if not len(values):
            raise InputError(f"{name}: expected one item or more, got an empty list.")
    longest = max(map(len, lists.values()))
    return [{name: values[min(number, len(values) - 1)] for name, values in lists.items()} for number in range(longest)]


def named(error: MemoError) -> MemoError:
    """The error of a node to which ComfyUI deals out a list, with the number of the item; of the first one nobody knows that it is of a list."""
    context = get_executing_context()
    number = context.list_index if context else None
    return type(error)(f"item {number + 1} of the list: {error}") if number else error
