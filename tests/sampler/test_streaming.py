"""A streamed motion memory holds what a list would, whatever the order in which it is asked."""

from dataclasses import replace

import pytest
import torch

from memo_modules.models.config import DiffusionNetConfig, MotionConfig
from memo_modules.sampler import streaming
from memo_modules.sampler.footprint import Footprint
from memo_modules.sampler.streaming import PLACES, HostTensors, StreamedMemory
from memo_modules.types import AttentionMemory, SamplerSettings

MODULES = 7


def module(number: int, seed: int, blocks: int = 2) -> tuple[AttentionMemory, ...]:
    """Modules of different sizes."""
    generator, d = torch.Generator().manual_seed(100 * seed + number), 2 + number % 3
    return tuple(AttentionMemory(torch.randn(3, 2, d, d, generator=generator), torch.randn(3, 2, d, generator=generator)) for _ in range(blocks))


def equal(found: tuple[AttentionMemory, ...], expected: tuple[AttentionMemory, ...]) -> bool:
    return all(torch.equal(a.kv, b.kv) and torch.equal(a.z, b.z) for a, b in zip(found, expected, strict=True))


@pytest.fixture(params=[streaming._BLOCK, 64], ids=["large blocks", "small blocks"])
def block(request, monkeypatch) -> None:
    monkeypatch.setattr(streaming, "_BLOCK", request.param)


@pytest.fixture
def memories(block) -> list[StreamedMemory]:
    return StreamedMemory.split(MODULES, 2, torch.device("cpu"))


@pytest.fixture(params=[0.0, 0.3, 0.9, 1.0])
def partly_resident(request, block) -> list[StreamedMemory]:
    """Of which some modules stay on the device."""
    return StreamedMemory.split(MODULES, 2, torch.device("cpu"), request.param)


def test_eight_bits_take_half_and_hold_nearly_the_same(block):
    memories = StreamedMemory.split(MODULES, 2, torch.device("cpu"), eight_bits=True)
    for seed in range(2):
        fill(memories, seed)
        for index, memory in enumerate(memories):
            for number, held in enumerate(memory):
                for found, expected in zip(held, module(number, 2 * seed + index), strict=True):
                    assert torch.equal(found.z, expected.z) and found.kv.dtype == expected.kv.dtype
                    assert (found.kv - expected.kv).abs().max() <= expected.kv.abs().max() / 250
    memories[0][0] = tuple(AttentionMemory(torch.zeros_like(each.kv), each.z) for each in module(0, 0))
    assert not memories[0][0][0].kv.any(), "no row is divided by nothing"


def test_what_lies_in_ram_is_what_the_footprint_says():
    motion = MotionConfig(num_attention_heads=4, num_transformer_block=1)
    config = DiffusionNetConfig(
        block_out_channels=(32,) * 4, cross_attention_dim=8, out_channels=4, audio_attention_dim=8, use_inflated_groupnorm=True,
        motion_module_kwargs=motion,
    )  # fmt: skip
    footprint = Footprint(config, (8, 8), SamplerSettings())
    plan = footprint.plan({"reference": 0, "diffusion": 0}, float("inf"), "low")
    assert plan.low_memory and plan.resident_share in (0.0, 1.0)
    plan = replace(plan, memory_in_ram=footprint.motion_memory)
    for eight_bits in (False, True):
        memories = StreamedMemory.split(len(footprint.memory_heads()), 2, torch.device("cpu"), 0.0, eight_bits)
        for memory in memories:
            for number, (heads, d) in enumerate(footprint.memory_heads()):
                memory[number] = (AttentionMemory(torch.randn(heads, d, d).bfloat16(), torch.rand(heads, d).bfloat16()),)
        [ring] = {memory._ring for memory in memories}
        held = sum(piece.nbytes for pieces in ring.host for piece in pieces)
        assert held == footprint.in_ram(plan, eight_bits)["motion memory"]


def fill(memories: list[StreamedMemory], seed: int) -> None:
    for index, memory in enumerate(memories):
        for number in range(MODULES):
            memory[number] = module(number, 2 * seed + index)


def test_is_empty_at_first(memories):
    assert [len(memory) for memory in memories] == [MODULES, MODULES]
    assert all(item is None for memory in memories for item in memory)


def test_passes_take_turns_over_steps_and_updates(partly_resident):
    memories = partly_resident
    for seed in range(3):
        for index, memory in enumerate(memories):
            for number in range(MODULES):  # as update_memory does: what was there before, then the new
                before = memory[number]
                assert before is None if seed == 0 else equal(before, module(number, 2 * (seed - 1) + index))
                memory[number] = module(number, 2 * seed + index)
        for _ in range(2):
            for index, memory in enumerate(memories):
                assert all(equal(memory[number], module(number, 2 * seed + index)) for number in range(MODULES))


def test_any_order_gives_what_was_stored(partly_resident):
    memories = partly_resident
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
    fill(memories, 0)
    assert [len(list(memory)) for memory in memories] == [MODULES] * len(memories), "it ends before those of the next pass"
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


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 0.9, 1.0])
def test_as_much_as_is_asked_stays_spread_evenly(share):
    memories = StreamedMemory.split(MODULES, 2, torch.device("cpu"), share)
    fill(memories, 0)
    fill(memories, 1)
    ring, values = memories[0]._ring, {number: sum(piece.nbytes // 4 for piece in pieces) for number, pieces in enumerate(memories[0]._ring.host)}
    resident = {number: sum(memory.kv.numel() + memory.z.numel() for memory in module) for number, module in ring.resident.items()}
    assert all(values[number] == 0 for number in resident), "nothing is in both"
    total, largest = sum(values.values()) + sum(resident.values()), max(*values.values(), *resident.values())
    assert share * total - largest < sum(resident.values()) <= share * total
    first_half = sum(size for number, size in resident.items() if number < MODULES)
    assert abs(2 * first_half - sum(resident.values())) <= 2 * largest


def test_what_is_on_its_way_never_lies_where_something_is_in_use(memories, partly_resident):
    for some in (memories, partly_resident):
        fill(some, 0)
        ring = some[0]._ring
        streamed = sum(map(bool, ring.host))
        for number in [*range(2 * MODULES)] * 3:
            found = some[number // MODULES][number % MODULES]
            coming = {flat.data_ptr() for flat, _ in ring.arrived.values()}
            assert len(coming) == len(ring.arrived) >= min(PLACES, streamed) - 1, "the next pass begins where this one ends"
            assert found[0].kv.data_ptr() not in coming


def test_host_tensors_are_on_the_device_when_looked_at():
    tensors = [torch.randn(2, 3), torch.randn(4)]
    assert all(map(torch.equal, HostTensors(tensors, torch.device("cpu")), tensors))
    assert [tensor.device.type for tensor in HostTensors(tensors, torch.device("meta"))] == ["meta", "meta"]
