from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.extents import UNIT_TOKENS, Extent, ExtentAllocator, power_of_two_from
from deployments.engine.key_count import key_count


@pytest.mark.parametrize(("tokens", "power"), [(0, 1), (1, 1), (2, 2), (3, 4), (128, 128), (129, 256)])
def test_power_of_two_from(tokens: int, power: int) -> None:
    assert power_of_two_from(tokens) == power


@pytest.mark.parametrize(
    ("total", "largest", "taken"),
    [
        (65536, 2048, 65536),
        (65536, 32768, 65536),
        (100000, 8192, 100032),
        (100000, 100000, 100032),
        (70000, 66000, 70016),
        (300, 300, 320),
    ],
)
def test_the_memory_is_what_is_configured_in_whole_units(total: int, largest: int, taken: int) -> None:
    allocator = ExtentAllocator(total, largest)
    assert allocator.total_tokens == taken
    assert allocator.allocate(largest) is not None


def test_more_tokens_than_the_largest_extent_are_refused() -> None:
    with pytest.raises(ValueError, match="don't fit"):
        ExtentAllocator(1024, 512).allocate(513)


def test_an_extent_has_room_for_the_keys_that_attention_reads_after_its_tokens() -> None:
    allocator = ExtentAllocator(65536, 4096)
    for tokens in range(1, 2049):
        assert allocator.capacity_for(tokens) >= key_count(tokens) >= tokens


# Neighbours.


def allocate(allocator: ExtentAllocator, *tokens: int) -> list[Extent]:
    extents = [allocator.allocate(count) for count in tokens]
    assert None not in extents
    return [extent for extent in extents if extent is not None]


def rows(extents: list[Extent]) -> int:
    """The calls that attention needs for the extents, of which neighbours of one capacity share one."""
    places = sorted((extent.offset, extent.capacity) for extent in extents)
    return 1 + sum(
        offset + capacity != following or capacity != other
        for (offset, capacity), (following, other) in pairwise(places)
    )


def test_extents_of_one_size_lie_side_by_side_in_whichever_order_they_come() -> None:
    allocator = ExtentAllocator(65536, 2048)
    tokens = [100, 300, 1000] * 8
    random.Random(1).shuffle(tokens)
    assert rows(allocate(allocator, *tokens)) == 3


def test_extents_that_grow_together_stay_side_by_side() -> None:
    allocator = ExtentAllocator(65536, 2048)
    extents = allocate(allocator, *[100] * 8)
    for tokens in (129, 257, 513):
        for extent in extents:
            assert allocator.grow(extent, tokens)
        assert rows(extents) == 1
        assert {extent.capacity for extent in extents} == {power_of_two_from(tokens)}


def test_the_last_of_a_row_moves_into_the_place_of_one_that_is_freed() -> None:
    allocator = ExtentAllocator(65536, 2048)
    first, middle, third, last = allocate(allocator, 100, 100, 100, 100)
    allocator.free(middle)
    assert [extent.offset for extent in (first, last, third)] == [0, 128, 256]


def test_most_rows_are_shared_while_streams_come_and_go() -> None:
    """The lengths are those of a chat, and half of the memory is free."""
    source = random.Random(3)
    allocator = ExtentAllocator(131072, 4096)
    live: list[Extent] = []
    counted = 0
    for turn in range(400):
        if len(live) == 32:
            allocator.free(live.pop(source.randrange(32)))
        live += allocate(allocator, min(4000, max(20, int(source.lognormvariate(6.55, 0.9)))))
        counted += rows(live) if turn >= 100 else 0
    assert allocator.used_tokens < 0.75 * allocator.total_tokens
    assert counted / 300 < 10


# All memory is used.


def test_memory_that_is_free_in_pieces_can_be_had_in_one_piece() -> None:
    allocator = ExtentAllocator(65536, 32768)
    extents = sorted(allocate(allocator, *[2048] * 32), key=lambda extent: extent.offset)
    for number, extent in enumerate(extents):
        if number % 4:
            allocator.free(extent)
    assert allocator.used_tokens == 16384
    assert allocator.allocate(32768) is not None


def test_what_extents_have_beyond_their_needs_is_taken_back() -> None:
    allocator = ExtentAllocator(4096, 2048)
    extents = allocate(allocator, 520, 520, 520)
    assert allocator.used_tokens == 3 * 1024
    allocate(allocator, 2048)
    assert sum(extent.capacity for extent in extents) <= 2048


def test_an_extent_grows_by_what_is_free_and_needs_no_second_place() -> None:
    allocator = ExtentAllocator(1024, 1024)
    before, extent, after = allocate(allocator, 64, 640, 192)
    for tokens in (641, 705):
        assert allocator.grow(extent, tokens)
    assert allocator.used_tokens == allocator.total_tokens
    assert not allocator.grow(extent, 769)
    assert (before.capacity, extent.capacity, after.capacity) == (64, 768, 192)


@pytest.mark.parametrize("total", [65536, 100000, 200000])
@pytest.mark.parametrize(
    ("median", "sigma", "longest"), [(700, 0.9, 8192), (350, 1.0, 4096), (3000, 0.8, 32768)]
)
def test_none_is_refused_below_nine_tenths_of_real_use(
    total: int, median: int, sigma: float, longest: int
) -> None:
    """Real use are the tokens that were asked for, against those that are configured."""
    source = random.Random(median)
    live: list[Extent] = []
    moved = placed = refused = 0

    def move(extent: Extent, offset: int, capacity: int) -> None:
        nonlocal moved
        moved += extent.tokens

    allocator = ExtentAllocator(total, longest, move)
    for _ in range(1000):
        tokens = min(longest, max(20, int(median * source.lognormvariate(0, sigma))))
        extent = allocator.allocate(tokens)
        if extent is not None:
            live.append(extent)
            placed += tokens
            continue
        refused += 1
        assert sum(extent.tokens for extent in live) + tokens >= 0.9 * total
        for _ in range(max(1, len(live) // 8)):
            allocator.free(live.pop(source.randrange(len(live))))
    assert refused > 5
    assert moved < 12 * placed, "compaction costs little beside the computation of the tokens"


@given(
    total=st.sampled_from([256, 1000, 4096, 20000]),
    largest=st.sampled_from([100, 256, 1024]),
    operations=st.lists(
        st.tuples(st.sampled_from(["allocate", "grow", "free"]), st.integers(1, 1024), st.integers(0, 1000)),
        max_size=120,
    ),
)
def test_extents_never_overlap_and_none_loses_a_token(
    total: int, largest: int, operations: list[tuple[str, int, int]]
) -> None:
    memory: dict[int, tuple[int, int]] = {}
    """The number of the extent and of the token at each place."""

    def move(extent: Extent, offset: int, capacity: int) -> None:
        others = [other for other in live.values() if other is not extent]
        assert all(other.end <= offset or offset + capacity <= other.offset for other in others)
        kept = [memory.pop(extent.offset + place) for place in range(extent.tokens)]
        for place, cell in enumerate(kept):
            memory[offset + place] = cell

    allocator = ExtentAllocator(total, largest, move)
    live: dict[int, Extent] = {}
    for number, (operation, tokens, place) in enumerate(operations):
        tokens = min(tokens, largest)
        name = list(live)[place % len(live)] if live else -1
        needed = sum(key_count(extent.tokens) for extent in live.values())
        if operation == "free" and live:
            extent = live.pop(name)
            for token in range(extent.tokens):
                assert memory.pop(extent.offset + token) == (name, token)
            allocator.free(extent)
        elif operation == "grow" and live:
            extent, before = live[name], live[name].tokens
            more = max(0, key_count(tokens) - key_count(before))
            assert allocator.grow(extent, tokens) == (needed + more <= allocator.total_tokens)
            for token in range(before, extent.tokens):
                memory[extent.offset + token] = name, token
        else:
            added = allocator.allocate(tokens)
            assert (added is not None) == (needed + key_count(tokens) <= allocator.total_tokens)
            if added is not None:
                live[number] = added
                memory |= {added.offset + token: (number, token) for token in range(tokens)}
        places = sorted((extent.offset, extent.end) for extent in live.values())
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        for name, extent in live.items():
            assert extent.offset >= 0 and extent.end <= allocator.total_tokens
            assert extent.offset % UNIT_TOKENS == extent.capacity % UNIT_TOKENS == 0
            assert extent.capacity >= key_count(extent.tokens)
            assert all(memory[extent.offset + token] == (name, token) for token in range(extent.tokens))
        assert allocator.used_tokens == sum(extent.capacity for extent in live.values())
        assert allocator.needed_tokens == sum(key_count(extent.tokens) for extent in live.values())
    for extent in list(live.values()):
        del live[next(name for name, other in live.items() if other is extent)]
        allocator.free(extent)
    assert allocator.used_tokens == allocator.needed_tokens == 0
