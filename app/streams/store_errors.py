"""The errors that every stream store raises, in the same words."""

from __future__ import annotations

from app.errors import (
    IdempotencyConflict,
    InvalidRequest,
    Overloaded,
    StoreUnavailable,
    StreamExpired,
    StreamNotFound,
)
from app.streams.store import MAX_CHANGES


def changed_too_often() -> InvalidRequest:
    return InvalidRequest(f"This stream was changed {MAX_CHANGES} times, the maximum.")


def key_conflict() -> IdempotencyConflict:
    return IdempotencyConflict("This Idempotency-Key was used for another body.", param="Idempotency-Key")


def store_full() -> Overloaded:
    return Overloaded("The stream store is full of running streams. Try again later.", retry_after_s=1)


def stream_expired() -> StreamExpired:
    return StreamExpired("The stream is past its retention.")


def store_learning() -> StoreUnavailable:
    """For a stream that a store may not have been told of yet."""
    return StoreUnavailable("The stream store has lost its memory and is being told again.", retry_after_s=1)


def stream_not_found() -> StreamNotFound:
    return StreamNotFound("There is no such stream.")
