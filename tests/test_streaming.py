"""A streamed motion memory holds what a list would, whatever the order in which it is asked."""

import pytest
import torch

from comfyui_memo.memo_modules import streaming
from comfyui_memo.memo_modules.streaming import PLACES, StreamedMemory
from comfyui_memo.memo_modules.types import AttentionMemory

MODULES = 7


def module(number: int, seed: int, blocks: int = 2) -> tuple[AttentionMemory, ...]:
    """Modules of different sizes."""
    generator, d = torch.Generator().manual_seed(100 * seed + number), 2 + number % 3
    return tuple(
        AttentionMemory(torch.randn(3, 2, d, d, generator=generator), torch.randn(3, 2, d, generator=generator)) for _ in range(blocks)
    )


def equal(found: tuple[AttentionMemory, ...], expected: tuple[AttentionMemory, ...]) -> bool:
    return all(torch.equal(a.kv, b.kv) and torch.equal(a.z, b.z) for a, b in zip(found, expected, strict=True))


@pytest.fixture(params=[streaming._BLOCK, 64], ids=["large blocks", "small blocks"])
def memories(request, monkeypatch) -> list[StreamedMemory]:
    monkeypatch.setattr(streaming, "_BLOCK", request.param)
    return StreamedMemory.split(MODULES, 2, torch.device("cpu"))


def fill(memories: list[StreamedMemory], seed: int) -> None:
    for index, memory in enumerate(memories):
        for number in range(MODULES):
            memory[number] = module(number, 2 * seed + index)


def test_is_empty_at_first(memories):
    assert [len(memory) for memory in memories] == [MODULES, MODULES]
    assert all(item is None for memory in memories for item in memory)


def test_passes_take_turns_over_steps_and_updates(memories):
    for seed in range(3):
        for index, memory in enumerate(memories):
            for number in range(MODULES):  # as update_memory does: what was there before, then the new
                before = memory[number]
                assert before is None if seed == 0 else equal(before, module(number, 2 * (seed - 1) + index))
                memory[number] = module(number, 2 * seed + index)
        for _ in range(2):
            for index, memory in enumerate(memories):
                assert all(equal(memory[number], module(number, 2 * seed + index)) for number in range(MODULES))


def test_any_order_gives_what_was_stored(memories):
    fill(memories, 0)
    memory = memories[1]
    for number in (3, 0, 6, 6, 2, 3, 1, 5):
        assert equal(memory[number], module(number, 1))
    assert equal(memory[3], module(3, 1))
    memory[4] = module(4, 9)  # after it was fetched ahead
    assert equal(memory[4], module(4, 9))


def test_a_module_stays_valid_until_the_next_is_asked_for(memories):
    fill(memories, 0)
    for number in range(MODULES):
        found = memories[0][number]
        assert equal(found, module(number, 0))
    assert len({place.data_ptr() for place in memories[0]._ring.places}) == PLACES


def test_has_one_item_per_module(memories):
    with pytest.raises(TypeError):
        memories[0].append(module(0, 0))
    with pytest.raises(TypeError):
        del memories[0][0]


def test_host_memory_comes_in_blocks_of_one_size(memories):
    """Torch rounds what it pins up to a power of two, and of a block that is one nothing is lost."""
    fill(memories, 0)
    ring = memories[0]._ring
    blocks = {piece.untyped_storage().data_ptr(): piece.untyped_storage().nbytes() for pieces in ring.host for piece in pieces}
    held = sum(piece.nbytes for pieces in ring.host for piece in pieces)
    assert set(blocks.values()) == {streaming._BLOCK}
    assert held <= sum(blocks.values()) < held + streaming._BLOCK
    fill(memories, 1)
    assert held == sum(piece.nbytes for pieces in ring.host for piece in pieces), "the second clip takes the place of the first"
