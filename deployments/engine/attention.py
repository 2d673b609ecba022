"""Attention of one step over the extents of the sequences that take part in it.

The tokens of a step are one row (1, tokens) for the model. Sequences with one token come first, ordered by their
place in memory, so that neighbours of one size form a run, which is one attention call. Each longer chunk is a call
of its own. The query heads that share a key-value head are packed as query positions (runs) or as heads (chunks), so
that keys and values are never repeated.

In the shapes of this file, `heads` counts the query heads, `kv_heads` the key-value heads, and `group` the query heads
that share a key-value head.

`extent_attention` is what transformers calls in each layer, under the name `NAME` (a name with "sdpa" or
"flash" in it would be taken for theirs). The step travels to it as the keyword argument `attention_step` of
the model.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from deployments.engine.kv_cache import KVCache, LayerCache, LayerShape
from deployments.engine.scheduler import Chunk

NAME = "streaming_extents"


class AttentionStep(Protocol):
    """Computes the attention calls of one forward pass."""

    def attend(self, layer: int, query: Heads, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The attention of one layer.

        `key`: (tokens, kv_heads, key_dim); `value`: (tokens, kv_heads, value_dim). Returns (tokens, heads, value_dim).
        """
        ...


class Heads:
    """The queries of one layer, and how that layer attends.

    `query`: (tokens, heads, key_dim); `sinks`: (heads,), the logit of each head's attention sink.
    """

    __slots__ = ("query", "scale", "sinks", "softcap", "window")

    def __init__(
        self,
        query: torch.Tensor,
        scale: float | None,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> None:
        self.query = query
        self.scale = scale
        self.window = window
        self.softcap = softcap
        self.sinks = sinks


def extent_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    attention_step: AttentionStep | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls. Raises `RuntimeError` when something other than the engine
    runs the model.

    `query`: (1, heads, tokens, key_dim); `key`: (1, kv_heads, tokens, key_dim); `value`: (1, kv_heads, tokens,
    value_dim); `s_aux`: (heads,). `attention_mask` is not used. Returns (1, tokens, heads, value_dim), and None for
    the attention weights.
    """
    if attention_step is None or query.shape[0] != 1:
        raise RuntimeError("this attention works only inside the engine, on one row of tokens")
    heads = Heads(query[0].transpose(0, 1), scaling, sliding_window, softcap, s_aux)
    layer = module.layer_idx
    assert isinstance(layer, int)
    out = attention_step.attend(layer, heads, key[0].transpose(0, 1), value[0].transpose(0, 1))
    return out.unsqueeze(0), None


class ExtentStep:
    """One step's chunks as the model needs them: ids, positions, places to write to, and what each token
    attends to.

    `ordered` are the chunks in the order of their tokens. `ids` and `positions`: (tokens,), int64. Everything that
    the device needs crosses over in one copy.
    """

    def __init__(self, chunks: list[Chunk], kv_cache: KVCache, device: torch.device) -> None:
        self._kv_cache = kv_cache
        singles = sorted((chunk for chunk in chunks if chunk.count == 1), key=_place)
        longer = [chunk for chunk in chunks if chunk.count > 1]
        self.ordered = singles + longer
        ids: list[int] = []
        positions: list[int] = []
        offsets: list[int] = []
        capacities: list[int] = []
        for chunk in self.ordered:
            extent = chunk.sequence.extent
            assert extent is not None and chunk.end <= extent.capacity
            ids += chunk.sequence.tokens[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
            offsets += [extent.offset] * chunk.count
            capacities += [extent.capacity] * chunk.count
        packed = torch.tensor([ids, positions, offsets, capacities])
        self.ids, self.positions, self._offsets, self._capacities = packed.to(device, non_blocking=True)
        self._slots: dict[int, torch.Tensor] = {}
        self._pieces = _runs(singles, self.positions)
        first = len(singles)
        for chunk in longer:
            self._pieces.append(_Segment(first, chunk, self.positions))
            first += chunk.count

    def attend(self, layer: int, query: Heads, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Writes the new keys and values, then attends. Writing again after a failure is harmless.

        `key`: (tokens, kv_heads, key_dim); `value`: (tokens, kv_heads, value_dim). Returns (tokens, heads, value_dim).
        """
        cache = self._kv_cache.layers[layer]
        # The rows of the layer's memory that the new keys and values go to: (tokens * kv_heads,).
        slots = self._slots.get(cache.heads)
        if slots is None:
            head = torch.arange(cache.heads, device=self.ids.device)
            starts = self._offsets * cache.heads + self.positions
            slots = (starts[:, None] + self._capacities[:, None] * head).flatten()
            self._slots[cache.heads] = slots
        cache.keys.index_copy_(0, slots, key.reshape(len(slots), -1))
        cache.values.index_copy_(0, slots, value.reshape(len(slots), -1))
        outputs = [piece.attend(query, cache) for piece in self._pieces]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class ShapeProbe:
    """Takes the place of a step in a first forward pass. Records what each layer keeps and how it attends; computes
    nothing.
    """

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.windows: dict[int, int | None] = {}

    def attend(self, layer: int, query: Heads, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """`key`: (tokens, kv_heads, key_dim); `value`: (tokens, kv_heads, value_dim). Returns zeros (tokens, heads,
        value_dim).
        """
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[2], value.shape[2], key.dtype)
        self.windows[layer] = query.window
        return value.new_zeros(query.query.shape[0], query.query.shape[1], value.shape[2])


class _Run:
    """Sequences with one new token each, side by side in memory."""

    def __init__(self, first: int, chunks: list[Chunk], positions: torch.Tensor) -> None:
        """`first` is the place of the run's first token in the step. `positions`: (tokens,), int64, of the whole step."""
        extent = chunks[0].sequence.extent
        assert extent is not None
        self._tokens = slice(first, first + len(chunks))
        self._offset = extent.offset
        self._capacity = extent.capacity
        self._shortest = min(chunk.end for chunk in chunks)
        self._longest = max(chunk.end for chunk in chunks)
        self._lengths = positions[self._tokens] + 1
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def attend(self, heads: Heads, cache: LayerCache) -> torch.Tensor:
        """The attention of the run's tokens: (sequences, heads, value_dim)."""
        count = len(self._lengths)
        all_keys, all_values = cache.rows(self._offset, self._capacity, count)
        window = heads.window
        start = max(0, self._shortest - window) if window else 0
        keys = all_keys[:, :, start : self._longest]
        values = all_values[:, :, start : self._longest]
        query = heads.query[self._tokens].reshape(count, cache.heads, -1, keys.shape[3])
        mask = self._mask(window, start, query)
        sinks = None if heads.sinks is None else heads.sinks.view(1, cache.heads, -1, 1)
        out = _attention(query, keys, values, mask, False, heads, sinks)
        return out.reshape(count, heads.query.shape[1], -1)

    def _mask(self, window: int | None, start: int, query: torch.Tensor) -> torch.Tensor | None:
        """The additive mask (sequences, 1, 1, keys) for the keys from `start` on; None when each sequence has all of them.

        `query`: (sequences, kv_heads, group, key_dim). The mask has its dtype and device.
        """
        if self._shortest == self._longest:
            return None
        if window not in self._masks:
            key = torch.arange(start, self._longest, device=query.device)
            lengths = self._lengths[:, None]
            keep = key < lengths
            if window:
                keep &= key >= lengths - window
            self._masks[window] = _additive(keep, query.dtype)[:, None, None]
        return self._masks[window]


class _Segment:
    """Several consecutive tokens of one sequence."""

    def __init__(self, first: int, chunk: Chunk, positions: torch.Tensor) -> None:
        """`first` is the place of the chunk's first token in the step. `positions`: (tokens,), int64, of the whole step."""
        extent = chunk.sequence.extent
        assert extent is not None
        self._tokens = slice(first, first + chunk.count)
        self._positions = positions[self._tokens]
        self._offset = extent.offset
        self._capacity = extent.capacity
        self._start = chunk.start
        self._end = chunk.end
        self._masks: dict[int | None, torch.Tensor] = {}

    def attend(self, heads: Heads, cache: LayerCache) -> torch.Tensor:
        """The attention of the chunk's tokens: (count, heads, value_dim)."""
        all_keys, all_values = cache.rows(self._offset, self._capacity)
        window = heads.window
        start = max(0, self._start + 1 - window) if window else 0
        keys = all_keys[0, :, start : self._end]
        values = all_values[0, :, start : self._end]
        query = heads.query[self._tokens]
        count, group = query.shape[0], query.shape[1] // cache.heads
        query = query.reshape(count, cache.heads, group, -1).permute(1, 2, 0, 3)
        causal = self._start == 0 and (not window or count <= window)
        mask = None if causal else self._mask(window, start, query)
        sinks = None if heads.sinks is None else heads.sinks.view(cache.heads, group, 1, 1)
        keys = keys.unsqueeze(1).expand(-1, group, -1, -1)
        values = values.unsqueeze(1).expand(-1, group, -1, -1)
        out = _attention(query, keys, values, mask, causal, heads, sinks)
        return out.permute(2, 0, 1, 3).reshape(count, cache.heads * group, -1)

    def _mask(self, window: int | None, start: int, query: torch.Tensor) -> torch.Tensor:
        """The additive mask (count, keys) for the keys from `start` on.

        `query`: (kv_heads, group, count, key_dim). The mask has its dtype and device.
        """
        mask = self._masks.get(window)
        if mask is None:
            key = torch.arange(start, self._end, device=query.device)
            position = self._positions[:, None]
            keep = key <= position
            if window:
                keep &= key > position - window
            mask = self._masks[window] = _additive(keep, query.dtype)
        return mask


def _place(chunk: Chunk) -> tuple[int, int]:
    extent = chunk.sequence.extent
    assert extent is not None
    return extent.capacity, extent.offset


def _runs(chunks: list[Chunk], positions: torch.Tensor) -> list[_Run | _Segment]:
    """The runs of `chunks`, which have one token each and are in the order of their places in memory.

    `positions`: (tokens,), int64, of the whole step.
    """
    runs: list[_Run | _Segment] = []
    begin = 0
    for index in range(1, len(chunks) + 1):
        if index < len(chunks):
            capacity, offset = _place(chunks[index - 1])
            if _place(chunks[index]) == (capacity, offset + capacity):
                continue
        runs.append(_Run(begin, chunks[begin:index], positions))
        begin = index
    return runs


def _additive(keep: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where `keep` (any shape, bool) is true, else minus infinity: the same shape, of `dtype`."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill_(~keep, float("-inf"))


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    heads: Heads,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Softmax attention. Soft-capped scores and attention sinks are computed without the fused kernels, which don't
    offer them.

    `query`: (batch, heads, queries, key_dim); `key`: (batch, heads, keys, key_dim); `value`: (batch, heads, keys,
    value_dim); `mask`: additive, broadcast to (batch, heads, queries, keys); `sinks`: broadcast to (batch, heads,
    queries, 1). Returns (batch, heads, queries, value_dim). A run has its sequences as batch, its key-value heads as
    heads and the group as queries; a segment has its key-value heads as batch and the group as heads.
    """
    if heads.softcap is None and sinks is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=heads.scale
        )
    scale = query.shape[-1] ** -0.5 if heads.scale is None else heads.scale
    scores = torch.matmul(query, key.transpose(2, 3)).float() * scale
    if heads.softcap is not None:
        scores = torch.tanh(scores / heads.softcap) * heads.softcap
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.float().expand(*scores.shape[:-1], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)
    if sinks is not None:
        weights = weights[..., :-1]
    return torch.matmul(weights.to(value.dtype), value)
