"""Attention of one step over the extents of the sequences that take part in it.

The tokens of a step are one row (1, tokens) for the model. Sequences with one token come first, ordered by their
place in memory, so that neighbours of one size form a run, which is one attention call. Longer chunks follow, each
cut into tiles. At the end stand the tokens of the padding, which attend to nothing.

What a token gets has the same bits in any run and in any tile, because of four rules:

- The keys of a call are counted by `key_count`: a product over other numbers of keys adds in another order. The keys after
  a token's own are masked, and what they add is exactly zero. Tokens with a `lone_count` share a call with their like alone.
- A call begins at a multiple of `BLOCK_KEYS`, at which PyTorch's kernel cuts the keys.
- A call has at least `LEAST_QUERIES` query rows and at most `MOST_QUERIES`: fewer or more are multiplied in another way. The
  query heads that share a key-value head are rows of one product, so that keys and values are never repeated. A run has the
  rows of one token, a tile those of several.
- Every call has a mask: without one the kernel takes a shortcut.

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

from deployments.engine.key_count import BLOCK_KEYS, key_count, lone_count, next_cut
from deployments.engine.kv_cache import KVCache, LayerCache, LayerShape
from deployments.engine.scheduler import Chunk

NAME = "streaming_extents"

LEAST_QUERIES = 4
MOST_QUERIES = 32
TILES_TOKENS = 128
"""The tokens of a chunk that are tiles of one call: the first of them see the keys up to the last."""


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

    `ordered` are the chunks in the order of their tokens. `ids` and `positions`: (tokens,), int64; the number of tokens is a
    multiple of `row_multiple`, for which padding follows the chunks. Everything that the device needs crosses over in one copy.
    """

    def __init__(
        self, chunks: list[Chunk], kv_cache: KVCache, device: torch.device, row_multiple: int = 1
    ) -> None:
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
            extent.is_finite = False  # until a sample shows it
            ids += chunk.sequence.tokens[chunk.start : chunk.end]
            positions += range(chunk.start, chunk.end)
            offsets += [extent.offset] * chunk.count
            capacities += [extent.capacity] * chunk.count
        self._padding = -len(ids) % row_multiple
        ids += [0] * self._padding
        positions += [0] * self._padding
        offsets += [kv_cache.total_tokens] * self._padding
        capacities += [1] * self._padding
        packed = torch.tensor([ids, positions, offsets, capacities])
        self.ids, self.positions, self._offsets, self._capacities = packed.to(device, non_blocking=True)
        self._slots: dict[int, torch.Tensor] = {}
        self._pieces: list[_Run | _Tiles] = [*_runs(singles, self.positions)]
        first = len(singles)
        for chunk in longer:
            start = chunk.start
            while start < chunk.end:
                end = min(chunk.end, start + TILES_TOKENS, next_cut(start + 1))
                self._pieces.append(_Tiles(first, Chunk(chunk.sequence, start, end - start), self.positions))
                first += end - start
                start = end

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
        if self._padding:
            outputs.append(outputs[0].new_zeros(self._padding, *outputs[0].shape[1:]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class ShapeProbe:
    """Takes the place of a step in a first forward pass. Records what each layer keeps and how it attends; computes
    nothing.
    """

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.windows: dict[int, int | None] = {}
        self.queries: dict[int, Heads] = {}

    def attend(self, layer: int, query: Heads, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """`key`: (tokens, kv_heads, key_dim); `value`: (tokens, kv_heads, value_dim). Returns zeros (tokens, heads,
        value_dim).
        """
        self.shapes[layer] = LayerShape(key.shape[1], key.shape[2], value.shape[2], key.dtype)
        self.windows[layer] = query.window
        self.queries[layer] = query
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
        self._positions = positions[self._tokens]
        self._masks: dict[int | None, torch.Tensor] = {}

    def attend(self, heads: Heads, cache: LayerCache) -> torch.Tensor:
        """The attention of the run's tokens: (sequences, heads, value_dim)."""
        count = len(self._positions)
        keys, values = cache.rows(self._offset, self._capacity, count)
        used = _keys(self._shortest - 1, self._longest, heads.window)
        query = heads.query[self._tokens].reshape(count, cache.heads, -1, keys.shape[3])
        group = query.shape[2]
        if group < LEAST_QUERIES:
            query = torch.nn.functional.pad(query, (0, 0, 0, LEAST_QUERIES - group))
        mask = self._masks.get(heads.window)
        if mask is None:
            mask = _additive(self._positions[:, None, None, None], used, heads.window, query)
            self._masks[heads.window] = mask
        sinks = None if heads.sinks is None else heads.sinks.view(cache.heads, group)
        out = _attention(query, keys[:, :, used], values[:, :, used], mask, heads, sinks)
        return out[:, :, :group].reshape(count, cache.heads * group, -1)


class _Tiles:
    """Several consecutive tokens of one sequence, `MOST_QUERIES` query rows of each key-value head at a time."""

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
        self._masks: dict[tuple[int | None, int], torch.Tensor] = {}

    def attend(self, heads: Heads, cache: LayerCache) -> torch.Tensor:
        """The attention of the chunk's tokens: (count, heads, value_dim)."""
        keys, values = cache.rows(self._offset, self._capacity)
        used = _keys(self._start, self._end, heads.window)
        query = heads.query[self._tokens]
        count, group = query.shape[0], query.shape[1] // cache.heads
        # The rows of a tile are (token, head of the group).
        tile = max(1, MOST_QUERIES // group)
        tiles = -(-count // tile)
        padding = tiles * tile - count
        query = torch.nn.functional.pad(query, (0, 0, 0, 0, 0, padding))
        query = query.view(tiles, tile, cache.heads, group, -1).transpose(1, 2).flatten(2, 3)
        mask = self._masks.get((heads.window, group))
        if mask is None:
            positions = torch.nn.functional.pad(self._positions, (0, padding), value=self._end - 1)
            rows = positions.view(tiles, 1, tile, 1).repeat_interleave(group, 2)
            mask = self._masks[heads.window, group] = _additive(rows, used, heads.window, query)
        sinks = None if heads.sinks is None else heads.sinks.view(cache.heads, group).repeat(1, tile)
        out = _attention(query, keys[:, :, used], values[:, :, used], mask, heads, sinks)
        out = out.reshape(tiles, cache.heads, tile, group, -1).transpose(1, 2)
        return out.reshape(tiles * tile, cache.heads * group, -1)[:count]


def _keys(first: int, end: int, window: int | None) -> slice:
    """The keys of a call for the tokens at the positions from `first` to before `end`."""
    start = max(0, first + 1 - window) if window else 0
    start -= start % BLOCK_KEYS
    return slice(start, key_count(end))


def _place(chunk: Chunk) -> tuple[int, int]:
    extent = chunk.sequence.extent
    assert extent is not None
    return extent.capacity, extent.offset


def _runs(chunks: list[Chunk], positions: torch.Tensor) -> list[_Run]:
    """The runs of `chunks`, which have one token each and are in the order of their places in memory.

    `positions`: (tokens,), int64, of the whole step.
    """
    runs: list[_Run] = []
    begin = 0
    for index in range(1, len(chunks) + 1):
        if index < len(chunks):
            before, chunk = chunks[index - 1], chunks[index]
            capacity, offset = _place(before)
            beside = _place(chunk) == (capacity, offset + capacity)
            if beside and lone_count(before.end) == lone_count(chunk.end):
                continue
        runs.append(_Run(begin, chunks[begin:index], positions))
        begin = index
    return runs


def _additive(positions: torch.Tensor, used: slice, window: int | None, query: torch.Tensor) -> torch.Tensor:
    """0 where the token at a position attends to a key, else minus infinity: (batch, 1, rows, keys), of the query's dtype.

    `positions`: (batch, 1, rows, 1), int64. `used` are the keys.
    """
    key = torch.arange(used.start, used.stop, device=query.device)
    keep = key <= positions
    if window:
        keep &= key > positions - window
    return torch.zeros(keep.shape, dtype=query.dtype, device=query.device).masked_fill_(~keep, float("-inf"))


def _attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    heads: Heads,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Softmax attention. PyTorch's kernel has no soft-capped scores, no attention sinks, and no values of another size.

    `query`: (batch, kv_heads, rows, key_dim); `keys`: (batch or 1, kv_heads, keys, key_dim); `values`: (batch or 1, kv_heads,
    keys, value_dim); `mask`: (batch, 1, rows or 1, keys), additive; `sinks`: (kv_heads, rows). Returns (batch, kv_heads, rows,
    value_dim).
    """
    batch, _, rows, key_dim = query.shape
    if heads.softcap is None and sinks is None and key_dim == values.shape[3]:
        keys, values = keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=heads.scale)
    scale = key_dim**-0.5 if heads.scale is None else heads.scale
    shared = keys.shape[0] < batch
    if shared:
        # The tiles of one sequence are rows of one product.
        query = query.transpose(0, 1).flatten(1, 2).unsqueeze(0)
    scores = torch.matmul(query, keys.transpose(2, 3)).float() * scale
    if shared:
        scores = scores[0].unflatten(1, (batch, rows)).transpose(0, 1)
    if heads.softcap is not None:
        scores = torch.tanh(scores / heads.softcap) * heads.softcap
    scores = scores + mask
    if sinks is not None:
        sinks = torch.nn.functional.pad(sinks.float(), (0, rows - sinks.shape[1]))
        scores = torch.cat([scores, sinks[None, :, :, None].expand(batch, -1, -1, -1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : values.shape[2]].to(values.dtype)
    if shared:
        weights = weights.transpose(0, 1).flatten(1, 2).unsqueeze(0)
    # Block by block: one product over all keys would cut them at places that depend on their number.
    out = torch.matmul(weights[..., :BLOCK_KEYS], values[:, :, :BLOCK_KEYS])
    for start in range(BLOCK_KEYS, values.shape[2], BLOCK_KEYS):
        block = slice(start, start + BLOCK_KEYS)
        out = out + torch.matmul(weights[..., block], values[:, :, block])
    return out[0].unflatten(1, (batch, rows)).transpose(0, 1) if shared else out
