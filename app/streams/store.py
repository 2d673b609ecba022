"""The stream store: what must be kept so that a stream outlives connections and processes, and the port to keep it.

Kept are the record of the request, the tokens with the edits among them, and the ending; frames, text and bytes are derived from
these. The ingress process that generates a stream is its producer: it holds the lease, and only it may append. Who takes a lease
over raises the stream's epoch by one; what still comes with an older epoch is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from app.errors import InvalidRequest
from app.schema.frames import End, Error
from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingParams
from app.schema.tokens import TokenBatch

MAX_CHANGES = 64
"""How often one stream can be changed."""

CHANGE_ID_LENGTH = 16

MAX_UNSTORED_TOKENS = 64
"""A reader may have seen this many tokens of a choice that the producer had no time to log before it died."""


class StreamRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What of a stream never changes. `created_s` is Unix time; `owner` names the caller, and is no secret."""

    id: str
    owner: str
    request: GenerationRequest
    prompt: list[int]
    sampling: SamplingParams
    created_s: float


class Idempotency(msgspec.Struct, frozen=True):
    """A caller's key for a request, and a digest of the request's body."""

    key: str
    digest: str


class Change(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What somebody wants of a stream that runs: stop strings to be added, or tokens to be put in.

    `id` is unique in the stream, `CHANGE_ID_LENGTH` characters in ASCII: one that comes twice is one change.
    """

    id: str
    stops: list[str] = []
    token_ids: list[int] = []


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a producer adds to one of its streams. `batches` carry no stream key of their own (0)."""

    stream: str
    epoch: int
    batches: list[TokenBatch]
    ending: End | Error | None = None


class Excerpt(msgspec.Struct, frozen=True, array_like=True):
    """What a stream has behind given counts. `orphaned`: its producer is gone, and whoever reads it may take its lease."""

    batches: list[TokenBatch]
    ending: End | Error | None
    orphaned: bool
    expires_s: float


RefusalReason = Literal["stale", "unknown"]


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """An append that was not taken: the stream has another producer by now (`stale`), or the store has lost it (`unknown`)."""

    stream: str
    reason: RefusalReason


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What a producer is to do: end a stream that it drives (`cancel`, or `stop` as if the model had), `change` it, or `adopt`
    one whose producer is gone. It may get an order more than once."""

    action: Literal["cancel", "stop", "change", "adopt"]
    stream: str
    change: Change | None = None


class StreamStore(Protocol):
    """Where streams are kept. Counts are tokens of each choice; every call may raise `app.errors.StoreUnavailable`.

    Every call is atomic: it happens whole or not at all, also when the caller is cancelled meanwhile.
    """

    async def create(
        self, record: StreamRecord, producer: str, idempotency: Idempotency | None = None
    ) -> str:
        """Keeps a new stream with `producer` as its producer, in epoch 1, and returns its id.

        With an idempotency key that the owner has used before, nothing is created and the first stream's id is returned;
        raises `IdempotencyConflict` when the digest differs, `Overloaded` when the store is full of running streams.
        """
        ...

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Refusal]:
        """Adds to streams, and renews the producer's lease. Returns those that are not the producer's in that epoch.

        Tokens and edits that the store has already are skipped, so that a call of unknown outcome can be repeated. An edit
        carries out the order for its change.
        """
        ...

    async def renew(self, producer: str, wait_s: float) -> list[Order]:
        """Renews the producer's lease and returns its orders, waiting up to `wait_s` for the first."""
        ...

    async def record(self, stream: str, owner: str | None = None) -> StreamRecord:
        """The record. Raises `StreamNotFound`, also when it is not `owner`'s, and `StreamExpired`. None is any owner."""
        ...

    async def read(self, stream: str, counts: Sequence[int], wait_s: float = 0.0) -> Excerpt:
        """What lies behind `counts`, waiting up to `wait_s` for something to. Raises as `record` does."""
        ...

    async def take(self, stream: str, producer: str) -> int | None:
        """Takes the lease of an orphaned stream and returns the new epoch; None when it has a producer or has ended."""
        ...

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        """Notes that `process` has so many readers of the stream from now on, and returns how many the others have.

        Processes are named as producers are, and count as long as they have a lease, which this renews. The one that creates a
        stream has one reader, none with `detach`, until it says otherwise. Of a stream that has ended none are counted: 0.
        Raises as `record` does.
        """
        ...

    async def order(self, order: Order) -> bool:
        """Tells the stream's producer to end or to change it; until that is done, whoever takes the lease is told again.

        Returns false, and does nothing, when the stream has ended. A change that was ordered already is not ordered again.
        Raises as `record` does, and `InvalidRequest` when `MAX_CHANGES` changes were ordered before.
        """
        ...


def changed_too_often() -> InvalidRequest:
    """What a log says to one change too many."""
    return InvalidRequest(f"The stream was changed {MAX_CHANGES} times already, which is the most.")
