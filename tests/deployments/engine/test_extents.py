from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.extents import Extent, ExtentAllocator, power_of_two_from
from deployments.engine.key_count import key_count


@pytest.mark.parametrize(("tokens", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (128, 128), (129, 256)])
def test_power_of_two_from(tokens: int, power: int) -> None:
    assert power_of_two_from(tokens) == power


def test_the_memory_is_rounded_up_to_hold_the_largest_extent() -> None:
    allocator = ExtentAllocator(300, 300, smallest_tokens=64)
    assert allocator.total_tokens == 512
    assert allocator.allocate(300) == Extent(0, 512) or allocator.used_tokens == 512


def test_more_tokens_than_the_largest_extent_are_refused() -> None:
    with pytest.raises(ValueError, match="don't fit"):
        ExtentAllocator(1024, 512).allocate(513)


def test_extents_of_one_size_lie_side_by_side() -> None:
    allocator = ExtentAllocator(65536, 2048)
    extents = [allocator.allocate(100) for _ in range(32)]
    assert [extent.offset for extent in extents if extent] == list(range(0, 32 * 128, 128))


def test_the_last_one_moves_into_the_place_of_one_that_is_freed() -> None:
    allocator = ExtentAllocator(65536, 2048)
    first, _, last = (allocator.allocate(100) for _ in range(3))
    assert first is not None and last is not None
    move = allocator.free(first)
    assert move is not None
    assert (move.source, move.destination, move.tokens) == (256, 0, 128)
    assert last.offset == 0


def test_a_full_memory_gives_none_and_room_again_after_a_free() -> None:
    allocator = ExtentAllocator(1024, 512)
    first, second = allocator.allocate(330), allocator.allocate(330)
    assert first is not None and second is not None
    assert allocator.allocate(1) is None
    allocator.free(first)
    assert allocator.allocate(1) is not None


def test_slabs_return_when_the_last_extent_in_them_is_freed() -> None:
    allocator = ExtentAllocator(65536, 65536)
    small = [allocator.allocate(128) for _ in range(16)]
    assert allocator.allocate(65536) is None
    for extent in small:
        assert extent is not None
        allocator.free(extent)
    assert allocator.allocate(65536) is not None


@given(
    total=st.sampled_from([256, 1000, 4096, 20000]),
    largest=st.sampled_from([100, 256, 1024]),
    choices=st.lists(st.tuples(st.booleans(), st.integers(1, 1024), st.integers(0, 1000)), max_size=80),
)
def test_extents_never_overlap_and_none_is_lost(
    total: int, largest: int, choices: list[tuple[bool, int, int]]
) -> None:
    allocator = ExtentAllocator(total, largest, smallest_tokens=32)
    owned: dict[int, str] = {}
    live: list[tuple[str, Extent]] = []
    for number, (is_free, tokens, place) in enumerate(choices):
        if is_free and live:
            name, extent = live.pop(place % len(live))
            cells = range(extent.offset, extent.offset + extent.capacity)
            assert {owned.pop(cell) for cell in cells} == {name}
            move = allocator.free(extent)
            if move is not None:
                for cell in range(move.tokens):
                    owned[move.destination + cell] = owned.pop(move.source + cell)
        elif tokens <= largest:
            added = allocator.allocate(tokens)
            if added is None:
                assert live
                continue
            assert added.capacity >= tokens and added.offset % added.capacity == 0
            assert added.offset + added.capacity <= allocator.total_tokens
            for cell in range(added.offset, added.offset + added.capacity):
                assert cell not in owned
                owned[cell] = str(number)
            live.append((str(number), added))
        for name, extent in live:
            assert owned[extent.offset] == owned[extent.offset + extent.capacity - 1] == name
        assert allocator.used_tokens == len(owned)
    for _, extent in live:
        allocator.free(extent)
    assert allocator.used_tokens == 0
    assert allocator.allocate(largest) is not None


def test_an_extent_has_room_for_the_keys_that_attention_reads_after_its_tokens() -> None:
    allocator = ExtentAllocator(65536, 4096)
    for tokens in range(1, 2049):
        assert allocator.capacity_for(tokens) >= key_count(tokens) >= tokens
