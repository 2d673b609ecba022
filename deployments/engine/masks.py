"""The masks of a step: which tokens may come next in the choices that have a grammar. They are made while the model runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from deployments.engine.matcher import GrammarBroken
from deployments.engine.scheduler import Chunk
from deployments.engine.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Masks:
    """`of`: the mask of token number such-and-such of a sequence; none where there is no grammar, or all tokens may come.

    `broken`: the sequences whose grammar can't go on.
    """

    of: dict[tuple[Sequence, int], bytes | None] = field(default_factory=dict)
    broken: set[Sequence] = field(default_factory=set)


NO_MASKS = Masks()

_BARRED = torch.where(torch.arange(256)[:, None] >> torch.arange(8) & 1 == 1, 0.0, float("-inf"))
"""What the eight tokens of each byte of a mask get added: (256, 8), float32."""


class MaskFiller:
    """Makes the masks of one step after the other, in a thread of its own that starts with the first."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="masks")

    def begin(self, chunks: Iterable[Chunk]) -> Future[Masks] | None:
        """Begins with the masks of the tokens that the logits of `chunks` are for. None when no sequence has a grammar."""
        constrained = [chunk for chunk in chunks if chunk.sequence.matcher is not None]
        return self._pool.submit(_masks, constrained) if constrained else None


def _masks(chunks: Items[Chunk]) -> Masks:
    masks = Masks()
    for chunk in chunks:
        sequence = chunk.sequence
        assert sequence.matcher is not None
        generated = sequence.tokens[sequence.prompt_length :]
        positions = [*chunk.unchecked, *([len(generated)] if chunk.samples else [])]
        try:
            for position in positions:
                mask = sequence.matcher.mask(generated[:position], sequence.steered)
                masks.of[sequence, position] = mask
        except GrammarBroken as error:
            logger.warning("the grammar of a sequence can't go on: %s", error)
            masks.broken.add(sequence)
    return masks


def apply_masks(logits: torch.Tensor, masks: Items[bytes | None]) -> None:
    """Takes the tokens that may not come out of the rows that have a mask. `logits`: (len(masks), vocab_size), float32.

    A number that is not finite stays one, so that it is seen.
    """
    rows = [row for row, mask in enumerate(masks) if mask is not None]
    if not rows:
        return
    packed = torch.frombuffer(
        bytearray(b"".join(mask for mask in masks if mask is not None)), dtype=torch.uint8
    )
    packed = packed.view(len(rows), -1).to(logits.device, non_blocking=True)
    table = _BARRED.to(logits.device)
    barred = torch.nn.functional.embedding(packed.int(), table).view(len(rows), -1)[:, : logits.shape[1]]
    if len(rows) == len(logits):
        logits += barred
    else:
        index = torch.tensor(rows).to(logits.device, non_blocking=True)
        logits.index_add_(0, index, barred)
