"""The key-value memory of a model: for each layer one tensor for keys and one for values, shared out as
extents.

An extent holds (heads, capacity, dim), so that extents of one size that lie side by side are the rows of one view
(rows, heads, capacity, dim), where `heads` counts key-value heads and `dim` is the dimension of a key or of a value. All
memory is taken at the start. What is free in it is always finite, because masked positions are still multiplied by zero and zero
times NaN is NaN: it is zeroed at the start, and wherever something leaves a place that is not known to be finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from deployments.engine.extents import Extent, ExtentAllocator


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer keeps for each token."""

    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype


class LayerCache:
    """Keys and values of one layer. `keys`: ((tokens + 1) * heads, key_dim); `values`: ((tokens + 1) * heads, value_dim).

    The last token belongs to no extent: it takes what the padding of a step writes.
    """

    def __init__(self, shape: LayerShape, tokens: int, device: torch.device) -> None:
        self.heads = shape.heads
        self.keys = torch.zeros((tokens + 1) * shape.heads, shape.key_dim, dtype=shape.dtype, device=device)
        self.values = torch.zeros(
            (tokens + 1) * shape.heads, shape.value_dim, dtype=shape.dtype, device=device
        )

    def rows(self, offset: int, capacity: int, count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys (count, heads, capacity, key_dim) and values (count, heads, capacity, value_dim) of `count` extents that lie
        side by side from token `offset` on. Views: writing to them changes the memory.
        """
        part = slice(offset * self.heads, (offset + count * capacity) * self.heads)
        shape = count, self.heads, capacity, -1
        return self.keys[part].view(shape), self.values[part].view(shape)


class KVCache:
    """Extents and the tensors that they are in. With no layers it is an allocator alone, which the scheduler's
    tests use.

    `has_windows`: some layer does not attend to all tokens. Then a finite sample does not show that all that was written is
    finite.
    """

    def __init__(
        self,
        layers: list[LayerShape],
        total_tokens: int,
        largest_tokens: int,
        device: torch.device,
        has_windows: bool = False,
    ) -> None:
        self._samples_prove = not has_windows
        self._bounds = (total_tokens, largest_tokens)
        self._allocator = ExtentAllocator(*self._bounds, self._move)
        self._is_dirty = False
        self.layers = [LayerCache(shape, self._allocator.total_tokens, device) for shape in layers]

    @property
    def used_tokens(self) -> int:
        return self._allocator.used_tokens

    @property
    def total_tokens(self) -> int:
        return self._allocator.total_tokens

    def allocate(self, tokens: int) -> Extent | None:
        """An extent for `tokens` tokens, or None when there is no room now."""
        if self._is_dirty:
            for layer in self.layers:
                layer.keys.zero_()
                layer.values.zero_()
            self._is_dirty = False
        return self._allocator.allocate(tokens)

    def reset(self) -> None:
        """Takes all extents back. Does not touch the device, which may be broken: the memory is zeroed before the next
        extent is allocated.
        """
        self._allocator = ExtentAllocator(*self._bounds, self._move)
        self._is_dirty = True

    def fits(self, tokens: int, freed: Iterable[Extent], spare: int) -> bool:
        """Whether there will be room for `tokens` tokens when `freed` are freed, and `spare` tokens besides."""
        needed = self._allocator.needed_tokens - sum(extent.least for extent in freed)
        return needed + self._allocator.capacity_for(tokens) + spare <= self.total_tokens

    def grow(self, extent: Extent, tokens: int) -> bool:
        """Gives `extent` room for `tokens` tokens; it may move. False, and all stays as it is, when there is no room."""
        return self._allocator.grow(extent, tokens)

    def free(self, extent: Extent) -> None:
        """Takes `extent` back. Another extent may move into its place."""
        self._leave(extent)
        self._allocator.free(extent)

    def _move(self, extent: Extent, offset: int, capacity: int) -> None:
        """Copies an extent to a place that belongs to no other, its own perhaps: the layout depends on the capacity."""
        overlapping = offset < extent.end and extent.offset < offset + capacity
        self.copy(extent, Extent(offset, capacity), extent.tokens, overlapping)
        if not overlapping:
            self._leave(extent)

    def _leave(self, extent: Extent) -> None:
        """Zeroes what is not known to be finite."""
        for layer in self.layers:
            if self._may_be_infinite(extent, layer):
                for tensor in layer.rows(extent.offset, extent.capacity):
                    tensor.zero_()

    def _may_be_infinite(self, extent: Extent, layer: LayerCache) -> bool:
        """In float16 a key may be infinite and leave no trace in the logits."""
        proved = extent.is_finite and self._samples_prove and layer.keys.dtype != torch.float16
        return not proved

    def copy(self, source: Extent, destination: Extent, tokens: int, overlapping: bool = False) -> None:
        """Copies the first `tokens` tokens of one extent to another; `overlapping` if they share memory and the first is given
        up.
        """
        destination.is_finite = destination.is_finite and source.is_finite
        for layer in self.layers:
            old_rows = layer.rows(source.offset, source.capacity)
            new_rows = layer.rows(destination.offset, destination.capacity)
            for old, new in zip(old_rows, new_rows, strict=True):
                kept = old[:, :, :tokens]
                if overlapping:
                    kept = kept.clone()
                    if self._may_be_infinite(source, layer):
                        old.zero_()
                new[:, :, :tokens] = kept
