"""A motion memory in host memory, whose modules visit the device one after the other, ahead of their use."""

import math
from collections.abc import MutableSequence

import torch
from torch import Tensor

from .types import AttentionMemory

PLACES = 4
"""Modules on the device at a time: the one in use and the next three, on their way. They are of like size, the work with
them is not: a few even that out."""


class _Ring:
    """The modules of all passes in the order of their use, and the places on the device that they visit in turn."""

    def __init__(self, modules: int, device: torch.device):
        self.device = device
        self.host: list[Tensor | None] = [None] * modules
        self.shapes: list[list[tuple[torch.Size, torch.Size]]] = [[] for _ in range(modules)]
        self.places: list[Tensor | None] = [None] * PLACES
        self.arrived: dict[int, tuple[Tensor, torch.cuda.Event | None]] = {}
        self.fetched = 0
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def store(self, number: int, memories: tuple[AttentionMemory, ...]) -> None:
        parts = [part for memory in memories for part in (memory.kv, memory.z)]
        size, dtype = sum(part.numel() for part in parts), parts[0].dtype
        if self.host[number] is None:
            self.host[number] = _host_tensor(size, dtype, pinned=self.stream is not None)
            self.shapes[number] = [(memory.kv.shape, memory.z.shape) for memory in memories]
        for place, part in zip(self.host[number].split([part.numel() for part in parts]), parts):
            place.copy_(part.flatten())  # waits for the device, once per clip
        self.arrived.pop(number, None)

    def load(self, number: int) -> tuple[AttentionMemory, ...]:
        if self.stream is not None:
            # all work with the module before this one is queued by now: its place is free behind it
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        if number not in self.arrived:
            self.arrived.clear()  # out of turn: what lies in the places now is overwritten
        for following in range(number, number + len(self.places)):
            following %= len(self.host)
            if following not in self.arrived and self.host[following] is not None:
                self._fetch(following)
        flat, event = self.arrived.pop(number)
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)
        sizes = [math.prod(shape) for pair in self.shapes[number] for shape in pair]
        parts = iter(flat.split(sizes))
        return tuple(AttentionMemory(next(parts).view(kv), next(parts).view(z)) for kv, z in self.shapes[number])

    def _fetch(self, number: int) -> None:
        source, turn = self.host[number], self.fetched % len(self.places)
        self.fetched += 1
        if self.places[turn] is None or self.places[turn].numel() < source.numel():
            self.places[turn] = torch.empty(source.numel(), dtype=source.dtype, device=self.device)
            if self.stream is not None:
                self.places[turn].record_stream(self.stream)  # not given to anyone while a copy is under way
        flat = self.places[turn][: source.numel()]
        if self.stream is None:
            flat.copy_(source)
            self.arrived[number] = flat, None
            return
        with torch.cuda.stream(self.stream):
            flat.copy_(source, non_blocking=True)
            self.arrived[number] = flat, self.stream.record_event()


class StreamedMemory(MutableSequence):
    """A MotionMemory of which only the modules in use lie on the device; those after them are fetched meanwhile."""

    def __init__(self, ring: _Ring, first: int, modules: int):
        self._ring, self._first, self._modules = ring, first, modules

    @classmethod
    def split(cls, modules: int, passes: int, device: torch.device) -> "list[StreamedMemory]":
        """Empty memories for passes that take turns on ``device``, each over ``modules`` motion modules in order."""
        ring = _Ring(modules * passes, device)
        return [cls(ring, index * modules, modules) for index in range(passes)]

    def __len__(self) -> int:
        return self._modules

    def __getitem__(self, number: int) -> tuple[AttentionMemory, ...] | None:
        """The memory of one module on the device, valid until the next one is asked for."""
        place = self._first + number
        return None if self._ring.host[place] is None else self._ring.load(place)

    def __setitem__(self, number: int, memories: tuple[AttentionMemory, ...]) -> None:
        self._ring.store(self._first + number, memories)

    def __delitem__(self, number: int) -> None:
        raise TypeError("A motion memory has one item per motion module.")

    def insert(self, number: int, memories: tuple[AttentionMemory, ...]) -> None:
        raise TypeError("A motion memory has one item per motion module.")


def _host_tensor(size: int, dtype: torch.dtype, pinned: bool) -> Tensor:
    if pinned:
        try:
            return torch.empty(size, dtype=dtype, pin_memory=True)
        except RuntimeError:  # the system lets no more memory be pinned: the copies are slower then
            pass
    return torch.empty(size, dtype=dtype)
