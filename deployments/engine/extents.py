"""Places in the key-value memory: each sequence has one extent, a contiguous range of tokens.

The capacity of an extent is what attention reads for its tokens (`key_count`), or more. While a quarter of the memory is free, it
is a power of two: then a sequence seldom moves because it grows, and sequences of similar length have extents of one capacity.
Those are put side by side, because attention over neighbours of one capacity is one call on one view. With less free memory the
steps between capacities are finer. When memory is scarce, an extent gets only what it needs, and what others have beyond their
needs is taken back.

Free memory is used wherever it lies: when no hole is large enough, the extents of the cheapest stretch of memory slide together.
So there is no place for an extent only where the needs of all together exceed the memory.

Extents are changed in place. The allocator calls `move` whenever the contents of one have to follow.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter

from deployments.engine.key_count import key_count

UNIT_TOKENS = 64
"""Offsets and capacities are multiples of it, as key counts are."""
SMALLEST_EXTENT_TOKENS = 128
"""The smallest extent while memory is not scarce."""

_PLENTY = 0.75
"""The part of the memory up to which capacities are powers of two."""
_ENOUGH = 0.9375
"""The part up to which there are capacities between two powers as well."""

_by_offset = attrgetter("offset")


@dataclass(slots=True, eq=False)
class Extent:
    """`capacity` tokens that start at token `offset` of the memory.

    `is_finite`: all that was written to it is known to be finite. `tokens` were asked for, which need the capacity `least`.
    """

    offset: int
    capacity: int
    is_finite: bool = True
    tokens: int = 0
    least: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.capacity


def power_of_two_from(tokens: int) -> int:
    """The smallest power of two that is not below `tokens`."""
    return 1 << max(tokens - 1, 0).bit_length()


def _stay(extent: Extent, offset: int, capacity: int) -> None:
    """For an allocator without a memory."""


class ExtentAllocator:
    """Hands out extents of a memory of `total_tokens` tokens, each of at most `largest_tokens` tokens.

    The memory is rounded up to whole units, and to what attention reads for `largest_tokens`.

    `move(extent, offset, capacity)` must copy the first `extent.tokens` tokens of an extent to the place where it will be. The
    two places may overlap; nothing else is in the new one. `used_tokens` is the capacity of all extents. What is beyond
    `needed_tokens` can be had.
    """

    def __init__(
        self,
        total_tokens: int,
        largest_tokens: int,
        move: Callable[[Extent, int, int], None] = _stay,
    ) -> None:
        self._largest = key_count(largest_tokens)
        self.total_tokens = max(-(-total_tokens // UNIT_TOKENS) * UNIT_TOKENS, self._largest)
        self.used_tokens = 0
        self.needed_tokens = 0
        self._plenty = int(self.total_tokens * _PLENTY)
        self._enough = int(self.total_tokens * _ENOUGH)
        self._move = move
        self._extents: list[Extent] = []

    def capacity_for(self, tokens: int) -> int:
        """The least capacity for `tokens` tokens: room for the keys that attention reads for them."""
        if tokens > self._largest:
            raise ValueError(f"{tokens} tokens don't fit the largest extent of {self._largest}")
        return key_count(tokens)

    def allocate(self, tokens: int) -> Extent | None:
        """An extent for `tokens` tokens, or None when there is no room for it now."""
        least = self.capacity_for(tokens)
        if self.needed_tokens + least > self.total_tokens:
            return None
        for capacity in self._capacities(least, self.used_tokens):
            offset = self._hole(capacity)
            if offset is not None:
                break
        else:
            offset = self._slide_together(least)
        extent = Extent(offset, capacity, tokens=tokens, least=least)
        insort(self._extents, extent, key=_by_offset)
        self.used_tokens += capacity
        self.needed_tokens += least
        return extent

    def grow(self, extent: Extent, tokens: int) -> bool:
        """Gives `extent` room for `tokens` tokens. False, and nothing changes, when there is none."""
        least = self.capacity_for(tokens)
        if least > extent.capacity:
            if self.needed_tokens - extent.least + least > self.total_tokens:
                return False
            self._enlarge(extent, least)
        if tokens > extent.tokens:
            self.needed_tokens += least - extent.least
            extent.tokens, extent.least = tokens, least
        return True

    def free(self, extent: Extent) -> None:
        """Takes `extent` back. Another one may move into its place."""
        self._extents.remove(extent)
        self.used_tokens -= extent.capacity
        self.needed_tokens -= extent.least
        self._close(extent.offset, extent.capacity)

    # Where an extent goes.

    def _capacities(self, least: int, used: int) -> list[int]:
        """The capacities to try for an extent that needs `least`, beside `used` tokens of others; the last is `least`."""
        power = power_of_two_from(max(least, SMALLEST_EXTENT_TOKENS))
        middle = power if power == SMALLEST_EXTENT_TOKENS or least > power * 3 // 4 else power * 3 // 4
        bounds = ((power, self._plenty), (middle, self._enough))
        return [capacity for capacity, most in bounds if capacity > least and used + capacity <= most] + [
            least
        ]

    def _holes(self) -> Iterator[tuple[int, int]]:
        """The first token of each hole, and the one after its last."""
        start = 0
        for extent in self._extents:
            if extent.offset > start:
                yield start, extent.offset
            start = extent.end
        if start < self.total_tokens:
            yield start, self.total_tokens

    def _hole(self, capacity: int) -> int | None:
        """A free place: beside an extent of the same capacity; else in the middle of the largest hole, so that others can follow
        on both sides, or in the smallest when memory is scarce.
        """
        holes = [(end - start, start, end) for start, end in self._holes() if end - start >= capacity]
        if not holes:
            return None
        starts = {start for _, start, _ in holes}
        ends = {end for _, _, end in holes}
        for extent in self._extents:
            if extent.capacity == capacity and extent.end in starts:
                return extent.end
            if extent.capacity == capacity and extent.offset in ends:
                return extent.offset - capacity
        if not self._extents or self.used_tokens + capacity > self._plenty:
            return min(holes)[1]
        size, start, _ = max(holes)
        return start + (size - capacity) // (2 * UNIT_TOKENS) * UNIT_TOKENS

    def _enlarge(self, extent: Extent, least: int) -> None:
        for capacity in self._capacities(least, self.used_tokens - extent.capacity):
            offset = None
            if capacity == least:
                offset = self._place_beside(extent, least)
            if offset is None:
                offset = self._hole(capacity)
            if offset is not None:
                break
        else:
            offset = self._slide_apart(extent, least)
        left, size = extent.offset, extent.capacity
        self._put(extent, offset, capacity)
        self._extents.sort(key=_by_offset)
        if not (offset < left + size and left < extent.end):
            self._close(left, size)

    def _place_beside(self, extent: Extent, capacity: int) -> int | None:
        """A place for `capacity` tokens that is its own and the holes beside it."""
        index = self._extents.index(extent)
        start, end = self._bounds(index, index + 1)
        if end - start < capacity:
            return None
        return extent.offset if end - extent.offset >= capacity else start

    def _close(self, offset: int, capacity: int) -> None:
        """Moves the last of a row of neighbours of one capacity into the place that one of them has left."""
        places = {extent.offset: extent for extent in self._extents if extent.capacity == capacity}
        if offset - capacity not in places or offset + capacity not in places:
            return
        last = offset + capacity
        while last + capacity in places:
            last += capacity
        self._put(places[last], offset, capacity)
        self._extents.sort(key=_by_offset)

    def _put(self, extent: Extent, offset: int, capacity: int) -> None:
        self._move(extent, offset, capacity)
        self.used_tokens += capacity - extent.capacity
        extent.offset, extent.capacity = offset, capacity

    # Compaction.

    def _slide_together(self, needed: int) -> int:
        """Makes a hole of `needed` tokens, for which there is room. Returns its first token."""
        first, last, tightens = self._window(needed, None)
        return self._pack(first, last, tightens)

    def _slide_apart(self, extent: Extent, needed: int) -> int:
        """The same for a hole of which the place of `extent` is a part."""
        index = self._extents.index(extent)
        first, last, tightens = self._window(needed - extent.capacity, index)
        end = self._bounds(first, last)[1]
        for other in reversed(self._extents[index + 1 : last]):
            capacity = other.least if tightens else other.capacity
            end -= capacity
            if (other.offset, other.capacity) != (end, capacity):
                self._put(other, end, capacity)
        return self._pack(first, index, tightens)

    def _pack(self, first: int, last: int, tightens: bool) -> int:
        """Slides the extents from number `first` to before `last` down. Returns the token after them."""
        offset = self._bounds(first)[0]
        for extent in self._extents[first:last]:
            capacity = extent.least if tightens else extent.capacity
            if (extent.offset, extent.capacity) != (offset, capacity):
                self._put(extent, offset, capacity)
            offset = extent.end
        return offset

    def _window(self, needed: int, around: int | None) -> tuple[int, int, bool]:
        """The extents, from the first number to before the second, that free `needed` tokens when they slide together, and
        whether they have to be tightened for it to what they need. With `around`, that number is among them and stays as it is.

        Of several the cheapest: those with the fewest tokens.
        """
        for tightens in (False, True):
            windows = self._windows(needed, around, tightens)
            if windows:
                _, first, last = min(windows)
                return first, last, tightens
        raise AssertionError("there is no room")

    def _windows(self, needed: int, around: int | None, tightens: bool) -> list[tuple[int, int, int]]:
        """For each extent with which one begins, the shortest window: its cost and its bounds."""
        others = [
            (extent.tokens, extent.capacity - extent.least if tightens else 0) if number != around else (0, 0)
            for number, extent in enumerate(self._extents)
        ]
        holes = [end - start for start, end in map(self._bounds, range(len(others) + 1))]
        # Of the extents before each number the costs, and what they and the holes before them have to give.
        costs = list(accumulate((cost for cost, _ in others), initial=0))
        gains = list(
            accumulate((hole + slack for hole, (_, slack) in zip(holes, others, strict=False)), initial=0)
        )
        windows = []
        last = 0 if around is None else around + 1
        for first in range((len(others) if around is None else around) + 1):
            last = max(first, last)
            while last <= len(others) and gains[last] + holes[last] - gains[first] < needed:
                last += 1
            if last > len(others):
                break
            windows.append((costs[last] - costs[first], first, last))
        return windows

    def _bounds(self, first: int, last: int | None = None) -> tuple[int, int]:
        """The memory from the end of what is before extent number `first` to the begin of number `last`, or of `first`."""
        start = self._extents[first - 1].end if first else 0
        last = first if last is None else last
        end = self._extents[last].offset if last < len(self._extents) else self.total_tokens
        return start, end
