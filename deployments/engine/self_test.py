"""Whether the parts of a model give the same bits whatever they are computed with, found out on the machine at hand.

The rules that make it so (`batch_invariant`, `attention`, `key_count`) rest on what was measured on some processors. Another
processor or library may add in another order. Each function takes well under a second and returns what is not equal, or None.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.attention import ExtentStep, Heads, ShapeProbe
from deployments.engine.batch_invariant import PackedLinear, padded
from deployments.engine.kv_cache import KVCache, LayerShape
from deployments.engine.scheduler import Chunk
from deployments.engine.sequence import Sequence

_ROWS = 37
_SOME_ROWS = (1, 3, 8, 33)
_LENGTHS = (600, 530, 365, 310, 40)
_COUNTS = (1, 1, 30, 1, 5)
_MEMORY_TOKENS = 8192


@torch.inference_mode()
def unequal_products(model: PreTrainedModel, row_multiple: int = 1) -> str | None:
    """Compares rows of the linear layers of each size, computed with 37 rows and with fewer, padded as those of a step."""
    seen: set[tuple[int, ...]] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, PackedLinear):
            size = (layer.out_features, layer.in_features)
        elif isinstance(layer, torch.nn.Linear):
            size = (layer.weight.shape[0], layer.weight.shape[1])
        elif isinstance(layer, Conv1D):
            size = (layer.weight.shape[1], layer.weight.shape[0])
        else:
            continue
        if size in seen:
            continue
        seen.add(size)
        rows = _numbers((_ROWS, size[1]), model.dtype, model.device)
        whole = layer(padded(rows, row_multiple))[:_ROWS]
        for count in _SOME_ROWS:
            some = layer(padded(rows[-count:], row_multiple))[:count]
            if torch.equal(some, whole[-count:]):
                continue
            return f"the products of {name} ({size[0]} x {size[1]}) with other numbers of rows"
    return None


@torch.inference_mode()
def unequal_attention(probe: ShapeProbe, device: torch.device) -> str | None:
    """Compares the attention of sequences that are computed whole and alone, and in small chunks side by side, for each kind of
    layer that `probe` has met.
    """
    seen = set()
    for layer, shape in sorted(probe.shapes.items()):
        met = probe.queries[layer]
        kind = (shape, met.query.shape[1], met.window, met.softcap, met.sinks is None)
        if kind in seen:
            continue
        seen.add(kind)
        alone = [_attended([length], met, shape, whole=True, device=device)[0] for length in _LENGTHS]
        together = _attended(list(_LENGTHS), met, shape, whole=False, device=device)
        if not all(torch.equal(one, other) for one, other in zip(alone, together, strict=True)):
            return f"the attention of layer {layer} in other chunks"
    return None


def _attended(
    lengths: list[int], met: Heads, shape: LayerShape, *, whole: bool, device: torch.device
) -> list[torch.Tensor]:
    """The attention of sequences of numbers that depend on their length: for each (length, heads, value_dim)."""
    cache = KVCache([shape], _MEMORY_TOKENS, max(_LENGTHS), device)
    sequences = []
    inputs = []
    for number, length in enumerate(lengths):
        job = Job(ingress="", key=number, prompt=[0] * length, sampling=SamplingParams(max_tokens=1))
        sequence = Sequence(job, 0, length + 1, number)
        sequence.extent = cache.allocate(length)
        sequences.append(sequence)
        sizes = (
            (met.query.shape[1], shape.key_dim),
            (shape.heads, shape.key_dim),
            (shape.heads, shape.value_dim),
        )
        inputs.append([_numbers((length, *size), shape.dtype, device) for size in sizes])
    outputs: list[list[torch.Tensor]] = [[] for _ in sequences]
    turn = 0
    while any(sequence.remaining for sequence in sequences):
        chunks = []
        for number, sequence in enumerate(sequences):
            count = (
                sequence.remaining
                if whole
                else min(sequence.remaining, _COUNTS[(turn + number) % len(_COUNTS)])
            )
            if count:
                chunks.append(Chunk(sequence, sequence.computed, count))
        turn += 1
        step = ExtentStep(chunks, cache, device)
        query, key, value = (
            torch.cat([inputs[chunk.sequence.key][part][chunk.start : chunk.end] for chunk in step.ordered])
            for part in range(3)
        )
        heads = Heads(query, met.scale, met.window, met.softcap, met.sinks)
        out = step.attend(0, heads, key, value).split([chunk.count for chunk in step.ordered])
        for chunk, part in zip(step.ordered, out, strict=True):
            outputs[chunk.sequence.key].append(part)
            chunk.sequence.computed = chunk.end
    return [torch.cat(parts) for parts in outputs]


def _numbers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The same numbers at every call: (shape), normally distributed."""
    generator = torch.Generator().manual_seed(shape[0])
    return torch.randn(shape, generator=generator).to(dtype).to(device)
