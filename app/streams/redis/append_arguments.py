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
    packed = [append if _is_plain(append) else _with_blobs(append, blobs) for append in appends]
    return [_encode(packed), *blobs]


def _is_plain(append: Append) -> bool:
    return append.ending is None and all(
        batch.logprobs is None and batch.edits is None for batch in append.batches
    )


def _with_blobs(append: Append, blobs: list[bytes]) -> tuple[Any, ...]:
    def blob(value: object) -> int:
        blobs.append(_encode(value))
        return len(blobs)

    def packed(batch: TokenBatch) -> tuple[Any, ...]:
        logprobs = [blob(logprob) for logprob in batch.logprobs or ()]
        edits = [(edit.id, edit.end, blob(edit)) for edit in batch.edits or ()]
        return (
            *(0, batch.choice, batch.position, batch.token_ids, batch.finish, batch.stop_token),
            *(logprobs[0] if logprobs else None, None, edits or None),
        )

    batches = [packed(batch) for batch in append.batches]
    return append.stream, append.epoch, batches, None if append.ending is None else blob(append.ending)
