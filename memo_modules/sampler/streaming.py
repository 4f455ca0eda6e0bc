"""Data that lies in RAM and is copied to the device when it is used: a motion memory, of which a part may stay there, and tensors."""

import math
import weakref
from collections.abc import Iterable, Mapping, MutableSequence, Sequence

import torch
from torch import Tensor, nn

from ..types import AttentionMemory

PLACES = 4
"""Modules on the device at a time: the one in use and the next three, which are being copied. Their sizes are similar, the time that the work
with them takes is not: a few in advance even that out."""

_BLOCK = 2**26
"""Bytes of RAM that are allocated at a time: torch rounds pinned memory up to a power of two."""


class _HostMemory:
    """RAM, pinned for a CUDA device, handed out in pieces."""

    def __init__(self, pinned: bool):
        self.pinned, self.rest = pinned, torch.empty(0)

    def take(self, size: int) -> list[Tensor]:
        """``size`` bytes in one or several pieces."""
        pieces = []
        while size:
            if len(self.rest) == 0:
                self.rest = _host_bytes(_BLOCK, self.pinned)
            piece, self.rest = self.rest[:size], self.rest[size:]
            pieces.append(piece)
            size -= len(piece)
        return pieces


class _Ring:
    """The modules of all passes in the order of their use: those that stay on the device, and the places there that the others take in
    turn."""

    def __init__(self, modules: int, device: torch.device, resident_share: float, eight_bits: bool):
        self.device, self.resident_share, self.eight_bits = device, resident_share, eight_bits
        self.resident: dict[int, tuple[AttentionMemory, ...]] = {}
        self.resident_values = self.values = 0
        self.host: list[list[Tensor]] = [[] for _ in range(modules)]
        self.layouts: list[list[tuple[torch.Size, torch.dtype]]] = [[] for _ in range(modules)]
        self.places: list[Tensor | None] = [None] * PLACES
        self.arrived: dict[int, tuple[Tensor, torch.Event | None]] = {}
        self.fetched = 0
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.memory = _HostMemory(pinned=self.stream is not None)
        if self.stream is not None:
            weakref.finalize(self, _give_back, self.stream, self.memory, self.host).atexit = False

    def holds(self, number: int) -> bool:
        return number in self.resident or bool(self.host[number])

    def store(self, number: int, memories: tuple[AttentionMemory, ...]) -> None:
        if self._stays(number, sum(part.numel() for memory in memories for part in (memory.kv, memory.z))):
            if number not in self.resident:
                self.resident[number] = memories
            for resident, memory in zip(self.resident[number], memories, strict=True):  # in place, so that the allocator keeps its shape
                resident.kv.copy_(memory.kv)
                resident.z.copy_(memory.z)
            return
        parts = _in_eight_bits(memories) if self.eight_bits else [part for memory in memories for part in (memory.kv, memory.z)]
        if not self.host[number]:
            self.host[number] = [piece for part in parts for piece in self.memory.take(part.nbytes)]
            self.layouts[number] = [(part.shape, part.dtype) for part in parts]
        pieces = iter(self.host[number])
        for part in (part.flatten().view(torch.uint8) for part in parts):
            while len(part):
                piece = next(pieces)
                piece.copy_(part[: len(piece)])  # waits for the device, once per clip
                part = part[len(piece) :]
        self.arrived.pop(number, None)

    def _stays(self, number: int, values: int) -> bool:
        """The modules that stay are spread evenly, so that there is as much time to copy the others everywhere."""
        if self.holds(number):
            return number in self.resident
        self.values += values
        stays = self.resident_values + values <= self.resident_share * self.values
        self.resident_values += values * stays
        return stays

    def load(self, number: int) -> tuple[AttentionMemory, ...]:
        if self.stream is not None:
            # all work with the module before this one is queued by now: its place is free after that work
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        order = (*range(number, len(self.host)), *range(number))
        following = [each for each in order if self.host[each]][: len(self.places)]
        if list(self.arrived) != following[: len(self.arrived)]:
            self.arrived.clear()  # out of order: what the places hold now is overwritten
        for each in following[len(self.arrived) :]:
            self._fetch(each)
        if number in self.resident:
            return self.resident[number]
        flat, event = self.arrived.pop(number)
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in self.layouts[number]]
        parts = [part.view(dtype).view(shape) for part, (shape, dtype) in zip(flat.split(sizes), self.layouts[number], strict=True)]
        if self.eight_bits:
            return _from_eight_bits(parts)
        return tuple(AttentionMemory(kv, z) for kv, z in zip(parts[::2], parts[1::2], strict=True))

    def _fetch(self, number: int) -> None:
        sizes, turn = [len(piece) for piece in self.host[number]], self.fetched % len(self.places)
        self.fetched += 1
        place = self.places[turn]
        if place is None or place.numel() < sum(sizes):
            self.places[turn] = place = torch.empty(sum(sizes), dtype=torch.uint8, device=self.device)
            if self.stream is not None:
                place.record_stream(self.stream)  # not given to anyone while a copy is under way
        flat = place[: sum(sizes)]
        with torch.cuda.stream(self.stream):  # does nothing without one
            for part, piece in zip(flat.split(sizes), self.host[number], strict=True):
                part.copy_(piece, non_blocking=True)
        self.arrived[number] = flat, self.stream.record_event() if self.stream is not None else None


class StreamedMemory(MutableSequence):
    """A MotionMemory in RAM. On the device are the module in use, the next ones, which are copied meanwhile, and as many as are to stay."""

    def __init__(self, ring: _Ring, first: int, modules: int):
        self._ring, self._first, self._modules = ring, first, modules

    @classmethod
    def split(cls, modules: int, passes: int, device: torch.device, resident_share: float = 0.0, eight_bits: bool = False) -> "list[StreamedMemory]":
        """Empty memories for passes that take turns on ``device``, each over ``modules`` motion modules in order.
        resident_share: share of all values that may stay there. eight_bits: what lies in RAM is rounded to 8 bits, by less than 1 %."""
        ring = _Ring(modules * passes, device, resident_share, eight_bits)
        return [cls(ring, index * modules, modules) for index in range(passes)]

    def __len__(self) -> int:
        return self._modules

    def __getitem__(self, number: int) -> tuple[AttentionMemory, ...] | None:
        """The memory of one module on the device, valid until the next one is asked for."""
        if not 0 <= number < self._modules:
            raise IndexError(number)  # ends an iteration
        place = self._first + number
        return self._ring.load(place) if self._ring.holds(place) else None

    def __setitem__(self, number: int, memories: tuple[AttentionMemory, ...]) -> None:
        self._ring.store(self._first + number, memories)

    def __delitem__(self, number: int) -> None:
        raise TypeError("A motion memory has one item per motion module.")

    def insert(self, number: int, memories: tuple[AttentionMemory, ...]) -> None:
        raise TypeError("A motion memory has one item per motion module.")


class HostTensors(Sequence[Tensor]):
    """Tensors in RAM, each of which is copied to ``device`` when it is read."""

    def __init__(self, tensors: Iterable[Tensor], device: torch.device):
        self._tensors, self._device = [tensor.cpu() for tensor in tensors], device

    def __len__(self) -> int:
        return len(self._tensors)

    def __getitem__(self, number: int) -> Tensor:
        return self._tensors[number].to(self._device)


def _give_back(stream: torch.cuda.Stream, memory: _HostMemory, host: list[list[Tensor]]) -> None:
    """Return pinned memory to the system; torch would keep it for later allocations of the same size."""
    stream.synchronize()
    memory.rest = torch.empty(0)
    host.clear()
    if hasattr(torch._C, "_host_emptyCache"):
        torch._C._host_emptyCache()


def _host_bytes(size: int, pinned: bool) -> Tensor:
    if pinned:
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError:  # the system allows no more pinned memory: copies are then slower
            pass
    return torch.empty(size, dtype=torch.uint8)


def _in_eight_bits(memories: tuple[AttentionMemory, ...]) -> list[Tensor]:
    """Each row of each kv in whole numbers of 8 bits with a scale, and z as it is; numbers of 8 bits last, where they leave no gap."""
    scales = [(memory.kv.abs().amax(dim=-1, keepdim=True) / 127).clamp_min(torch.finfo(memory.kv.dtype).tiny) for memory in memories]
    rounded = [(memory.kv / scale).round().clamp(-127, 127).to(torch.int8) for memory, scale in zip(memories, scales, strict=True)]
    return [*scales, *(memory.z for memory in memories), *rounded]


def _from_eight_bits(parts: list[Tensor]) -> tuple[AttentionMemory, ...]:
    count = len(parts) // 3
    scales, zs, rounded = parts[:count], parts[count : 2 * count], parts[2 * count :]
    return tuple(AttentionMemory(kv.to(scale.dtype) * scale, z) for scale, z, kv in zip(scales, zs, rounded, strict=True))


class TakingTurns:
    """A ``MemoNets.bring_in`` for use without a host that manages memory: each UNet is on the device only while it runs.

    unets: by the phase in which they run. Their weights also stay in pinned RAM, so that removing one from the device copies nothing.
    """

    def __init__(self, unets: Mapping[str, nn.Module], device: torch.device):
        self.device = device
        self.tensors = {phase: [*net.parameters(), *net.buffers()] for phase, net in unets.items()}
        self.waiting = {phase: [tensor.data.cpu().pin_memory() for tensor in tensors] for phase, tensors in self.tensors.items()}
        self.phase: str | None = None
        for phase in self.tensors:
            self._put_away(phase)

    @torch.inference_mode(False)  # the weights of a net are no inference tensors
    def __call__(self, phase: str, remembers: bool) -> None:
        if phase == self.phase:
            return
        if self.phase is not None:
            self._put_away(self.phase)
        for tensor, waiting in zip(self.tensors[phase], self.waiting[phase], strict=True):
            tensor.data = waiting.to(self.device, non_blocking=True)
        self.phase = phase

    def _put_away(self, phase: str) -> None:
        for tensor, waiting in zip(self.tensors[phase], self.waiting[phase], strict=True):
            tensor.data = waiting
