"""The arguments of the script that appends: its comment says what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from app.schema.tokens import TokenBatch
from app.streams.store import Append

_encode = msgspec.msgpack.Encoder().encode


def append_arguments(appends: Sequence[Append]) -> list[bytes]:
    """The packed appends, then the blobs that they name by number. Most appends have no blob and are packed as they are."""
    blobs: list[bytes] = []

    def blob(value: object) -> int:
        blobs.append(_encode(value))
        return len(blobs)

    def packed_batch(batch: TokenBatch) -> tuple[Any, ...]:
        logprobs = [blob(logprob) for logprob in batch.logprobs or ()]
        edits = [(edit.id, edit.end, blob(edit)) for edit in batch.edits or ()]
        return (
            *(0, batch.choice, batch.position, batch.token_ids, batch.finish, batch.stop_token),
            *(logprobs[0] if logprobs else None, None, edits or None),
        )

    packed: list[Any] = []
    for append in appends:
        if append.ending is None and all(
            batch.logprobs is None and batch.edits is None for batch in append.batches
        ):
            packed.append(append)
            continue
        batches = [packed_batch(batch) for batch in append.batches]
        ending = None if append.ending is None else blob(append.ending)
        packed.append((append.stream, append.epoch, batches, ending))
    return [_encode(packed), *blobs]
