"""Places in the key-value memory: each sequence has one extent, a contiguous range of tokens whose size is a
power of two.

The memory is cut into slabs. A size below a slab has slabs of its own, and its extents fill them without a
hole: when one is freed, the last of that size moves into its place. So the extents of a size lie side by
side, and attention over all of them is one call on one view. Larger sizes take whole slabs, aligned to their
size, from the other end of the memory.

Extents are moved by changing `Extent.offset` in place; `free` returns the move, and the caller must copy the
contents before it does anything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.engine.key_count import key_count

SMALLEST_EXTENT_TOKENS = 128
LARGEST_SLAB_TOKENS = 2048
_SLABS_WANTED = 16


@dataclass(slots=True, eq=False)
class Extent:
    """`capacity` tokens that start at token `offset` of the memory. `offset` is a multiple of `capacity`.

    `is_finite`: all that was written to it is known to be finite.
    """

    offset: int
    capacity: int
    is_finite: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """The contents of `tokens` tokens have to be copied from one offset to another. `is_finite` as of an extent."""

    source: int
    destination: int
    tokens: int
    is_finite: bool = True


@dataclass(slots=True)
class _SizeClass:
    """The extents of one size below a slab: number i lies in slab i // per_slab."""

    capacity: int
    per_slab: int
    extents: list[Extent] = field(default_factory=list)
    slabs: list[int] = field(default_factory=list)


def power_of_two_from(tokens: int) -> int:
    """The smallest power of two that is not below `tokens`."""
    return 1 << max(tokens - 1, 0).bit_length()


class ExtentAllocator:
    """Hands out extents of a memory of at least `total_tokens` tokens, each of at most `largest_tokens`
    tokens.

    The memory is rounded up to whole slabs, and to one extent of the largest size.
    """

    def __init__(
        self, total_tokens: int, largest_tokens: int, smallest_tokens: int = SMALLEST_EXTENT_TOKENS
    ) -> None:
        self._smallest = power_of_two_from(smallest_tokens)
        self._largest = max(power_of_two_from(key_count(largest_tokens)), self._smallest)
        wanted = power_of_two_from(total_tokens // _SLABS_WANTED + 1) // 2
        self.slab_tokens = min(max(wanted, self._smallest), LARGEST_SLAB_TOKENS, self._largest)
        slabs = max(-(-total_tokens // self.slab_tokens), self._largest // self.slab_tokens)
        self.total_tokens = slabs * self.slab_tokens
        self.used_tokens = 0
        self._taken = [False] * slabs
        self._classes: dict[int, _SizeClass] = {}

    def capacity_for(self, tokens: int) -> int:
        """The capacity of the extent that `tokens` tokens get: room for the keys that attention reads for them."""
        if tokens > self._largest:
            raise ValueError(f"{tokens} tokens don't fit the largest extent of {self._largest}")
        return max(power_of_two_from(key_count(tokens)), self._smallest)

    def allocate(self, tokens: int) -> Extent | None:
        """An extent for `tokens` tokens, or None when there is no room for it now."""
        capacity = self.capacity_for(tokens)
        allocate = self._allocate_in_slab if capacity < self.slab_tokens else self._allocate_slabs
        extent = allocate(capacity)
        if extent is not None:
            self.used_tokens += capacity
        return extent

    def free(self, extent: Extent) -> Move | None:
        """Takes `extent` back. Returns the move that fills its place, if there is one."""
        self.used_tokens -= extent.capacity
        if extent.capacity >= self.slab_tokens:
            first = extent.offset // self.slab_tokens
            for slab in range(first, first + extent.capacity // self.slab_tokens):
                self._taken[slab] = False
            return None
        size = self._classes[extent.capacity]
        last = size.extents.pop()
        if len(size.extents) == (len(size.slabs) - 1) * size.per_slab:
            self._taken[size.slabs.pop()] = False
        if last is extent:
            return None
        size.extents[size.extents.index(extent)] = last
        move = Move(last.offset, extent.offset, extent.capacity, last.is_finite)
        last.offset = extent.offset
        return move

    def extend(self, extent: Extent, tokens: int) -> Extent | None:
        """A larger extent in place of `extent`, which it may overlap. None, and `extent` stays, when there is no room."""
        if extent.capacity < self.slab_tokens:
            return None
        self.free(extent)
        larger = self.allocate(tokens)
        if larger is None:
            self._take_slabs(extent.offset // self.slab_tokens, extent.capacity // self.slab_tokens)
            self.used_tokens += extent.capacity
        return larger

    def _allocate_in_slab(self, capacity: int) -> Extent | None:
        size = self._classes.get(capacity)
        if size is None:
            size = self._classes[capacity] = _SizeClass(capacity, self.slab_tokens // capacity)
        number = len(size.extents)
        if number == len(size.slabs) * size.per_slab:
            # The slab after the last one, so that a size stays in one piece, else the lowest free one.
            slab = size.slabs[-1] + 1 if size.slabs else 0
            if slab >= len(self._taken) or self._taken[slab]:
                slab = next((slab for slab, taken in enumerate(self._taken) if not taken), -1)
            if slab < 0:
                return None
            self._taken[slab] = True
            size.slabs.append(slab)
        offset = size.slabs[number // size.per_slab] * self.slab_tokens + number % size.per_slab * capacity
        extent = Extent(offset, capacity)
        size.extents.append(extent)
        return extent

    def _allocate_slabs(self, capacity: int) -> Extent | None:
        count = capacity // self.slab_tokens
        for first in range((len(self._taken) - count) // count * count, -1, -count):
            if not any(self._taken[first : first + count]):
                self._take_slabs(first, count)
                return Extent(first * self.slab_tokens, capacity)
        return None

    def _take_slabs(self, first: int, count: int) -> None:
        self._taken[first : first + count] = [True] * count
