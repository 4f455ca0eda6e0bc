"""Lists: the good items are kept when others fail, and what can be refused is refused before the first is sampled.

Core leaves an item out of the nodes that get one after the other (ExecutionBlocker), but also the whole list out of a node that gets it whole.
So our own sockets carry a Refused in its place, and pictures and sounds between our nodes one without anything in it.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
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


class LeftOut(InputError):
    """This item of a list was refused by a node before, which has said so."""


@dataclass(frozen=True)
class Refused:
    """What a socket carries in place of an item of a list that could not be made."""

    reason: str


_REASON = "memo_refused"
"""Of a picture or a sound in place of an item that could not be made."""


def refused(kind: str, reason: str) -> Any:
    """What an output of the type ``kind`` gives our own nodes in place of an item; others see a picture or a sound without anything in it."""
    if kind == "IMAGE":
        nothing = torch.zeros(0, 64, 64, 3)
        setattr(nothing, _REASON, reason)
        return nothing
    return {"waveform": torch.zeros(1, 1, 0), "sample_rate": 16000, _REASON: reason} if kind == "AUDIO" else Refused(reason)


def check_not_left_out(value: Any) -> None:
    """Raises LeftOut for what ``refused`` gives."""
    if isinstance(value, Refused):
        raise LeftOut(value.reason)
    if reason := value.get(_REASON) if isinstance(value, Mapping) else getattr(value, _REASON, None):
        raise LeftOut(str(reason))


def _schema(node: type[io.ComfyNode]) -> io.Schema:
    return node.SCHEMA or node.GET_SCHEMA()  # of the copy that runs it cannot be made


def blocked(node: type[io.ComfyNode], reason: str) -> list:
    """The outputs of a node that samples or writes, in place of an item: core leaves the item out of all that follows."""
    kinds = [output.io_type for output in _schema(node).outputs]
    return [Refused(reason) if kind.startswith("MEMO_") else ExecutionBlocker(None) for kind in kinds]


class _Attempts:
    """What could not be made of a list, by item, as it is said in the node. Of a single item the error itself is raised."""

    def __init__(self, node: type[io.ComfyNode]):
        self.node = node
        self.failed: dict[Item, str] = {}
        self.reasons: dict[Item, str] = {}
        """For the nodes that follow."""

    def __call__(self, place: Item, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except MemoError as error:
            if place.count == 1:
                raise
            self.failed[place] = f"{place}: {error} It is left out."
            self.reasons[place] = str(error) if isinstance(error, LeftOut) else f"{_schema(self.node).display_name}: {error}"
            adapter.host(self.node.hidden.unique_id).say(" ".join(self.failed.values()))
            if len(self.failed) == place.count:
                raise InputError(" ".join(self.failed.values())) from error


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
        attempt = _Attempts(cls)
        failed = attempt.failed
        ready = {place: attempt(place, partial(cls.prepare, place, **values)) for place, values in zip(places, dealt, strict=True)}
        made = {}
        for place in places:
            if place not in failed:
                made[place] = attempt(place, partial(cls.make, ready[place], list(failed.values())))
        good = [made[place] for place in places if place not in failed]
        for prepared in ready.values() if len(places) > 1 and not failed else ():
            with prepared.journal() as kept:
                kept.remove()
        outputs = [blocked(cls, attempt.reasons[place]) if place in failed else made[place][0] for place in places]
        shown: dict[str, Any] = {"images": [file for _, files in good for file in files], **cls.SHOWN}
        if failed:
            shown["text"] = list(failed.values())
        return io.NodeOutput(*map(list, zip(*outputs, strict=True)), ui=shown)


class PreparingNode(io.ComfyNode):
    """A node before those that sample, of each item of its inputs an item of its outputs: both are lists (``is_input_list``), of which it keeps
    the good ones."""

    @classmethod
    def one(cls, **inputs) -> io.NodeOutput:
        """As ``execute`` of a node without lists; raises MemoError for what cannot be made."""
        raise NotImplementedError

    @classmethod
    def execute(cls, **lists) -> io.NodeOutput:
        dealt = items(lists)
        attempt, outputs, shown = _Attempts(cls), [], []
        for place, values in ((Item(number, len(dealt)), values) for number, values in enumerate(dealt)):
            made = attempt(place, partial(cls.one, **values))
            if made is None:
                outputs.append([refused(output.io_type, attempt.reasons[place]) for output in _schema(cls).outputs])
                continue
            outputs.append(made.args)
            if made.ui is not None:
                shown.append(made.ui if isinstance(made.ui, Mapping) else made.ui.as_dict())
        together = {key: [each for one in shown for each in one[key]] for key in shown[0]} if shown else {}
        if attempt.failed:
            together["text"] = list(attempt.failed.values())
        return io.NodeOutput(*map(list, zip(*outputs, strict=True)), ui=together or None)


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
