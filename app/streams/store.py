"""The stream store: keeps what a stream needs to outlive connections and processes. The port, and the data that crosses it.

A store keeps the record of the request, the tokens with the edits among them, and the ending; frames, text and bytes are derived
from these. The process that generates a stream is its producer: it has the lease, and only it may append. A process that takes
the lease over raises the stream's epoch by one; appends with an older epoch are rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from app.schema.frames import End, Error
from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingParams
from app.schema.tokens import TokenBatch

MAX_CHANGES = 64
"""How often one stream can be changed."""

CHANGE_ID_LENGTH = 16

MAX_UNSTORED_TOKENS = 64
"""A reader may have seen this many tokens of a choice that are not in the store when the producer dies; more only if the store
was away just before."""


class StreamRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a stream that never changes. `created_s` is Unix time; `owner` names the caller, and is no secret.

    `deterministic` is that of the replica that began the stream. `parsed`: the output is parsed after the model's
    `response_template`.
    """

    id: str
    owner: str
    request: GenerationRequest
    prompt: list[int]
    sampling: SamplingParams
    created_s: float
    deterministic: bool = False
    parsed: bool = False


class Idempotency(msgspec.Struct, frozen=True):
    """A caller's key for a request, and a digest of the request's body."""

    key: str
    digest: str


class Change(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A change of a running stream: stop strings to add, or tokens to insert.

    `id` has `CHANGE_ID_LENGTH` ASCII characters and is unique in the stream: a change that comes twice counts once.
    """

    id: str
    stops: list[str] = []
    token_ids: list[int] = []


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a producer adds to one of its streams. The `key` of each batch is 0: `stream` says where it belongs."""

    stream: str
    epoch: int
    batches: list[TokenBatch]
    ending: End | Error | None = None


class Excerpt(msgspec.Struct, frozen=True, array_like=True):
    """What a stream has after given counts. `orphaned`: its producer is gone, and any process may take the lease."""

    batches: list[TokenBatch]
    ending: End | Error | None
    orphaned: bool
    expires_s: float


RejectionReason = Literal["stale", "unknown"]


class Rejection(msgspec.Struct, frozen=True, array_like=True):
    """An append that the store rejects: another producer has the stream now (`stale`), or the store has lost it (`unknown`)."""

    stream: str
    reason: RejectionReason


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What a producer is to do: end its stream (`cancel`, or `stop` as if the model had), `change` it, `adopt` a stream whose
    producer is gone, or `tell` a store that has lost its memory, with an append, of all its streams (`stream` is empty).

    A producer may get an order more than once.
    """

    action: Literal["cancel", "stop", "change", "adopt", "tell"]
    stream: str
    change: Change | None = None


class StreamStore(Protocol):
    """Where streams are kept. Counts are tokens of each choice; every call may raise `app.errors.StoreUnavailable`.

    Every call is atomic: it happens whole or not at all, also when the caller is cancelled meanwhile. `wait_s` is how long a call
    may wait. Arguments and results also cross processes as they are annotated here.
    """

    async def create(
        self, record: StreamRecord, producer: str, idempotency: Idempotency | None = None
    ) -> str:
        """Keeps a new stream with `producer` as its producer, in epoch 1, and returns its id.

        With an idempotency key that the owner has used before, it creates nothing and returns the first stream's id.
        Raises `IdempotencyConflict` when the digest differs, `Overloaded` when the store is full of running streams.
        """
        ...

    async def append(self, producer: str, appends: Sequence[Append]) -> list[Rejection]:
        """Adds to streams, and renews the producer's lease. Rejects what is not the producer's in that epoch.

        Tokens and edits that the store has already are skipped, so a call of unknown outcome can be repeated. An edit
        carries out the order for its change.
        """
        ...

    async def renew(self, producer: str, wait_s: float) -> list[Order]:
        """Renews the producer's lease and returns its orders, waiting up to `wait_s` for the first."""
        ...

    async def record(self, stream: str, owner: str | None = None) -> StreamRecord:
        """The record. None is any owner. Raises `StreamExpired`, and `StreamNotFound`, also for another owner's stream.

        A store that has lost its memory raises `StoreUnavailable` for a stream of which it may be told yet.
        """
        ...

    async def read(self, stream: str, counts: Sequence[int], wait_s: float = 0.0) -> Excerpt:
        """What the stream has after `counts`, waiting up to `wait_s` for more. Raises as `record` does."""
        ...

    async def take(self, stream: str, producer: str) -> int | None:
        """Takes the lease of an orphaned stream and returns the new epoch; None when it has a producer or has ended."""
        ...

    async def count_readers(self, stream: str, process: str, readers: int) -> int:
        """Notes that `process` has this many readers of the stream from now on, and returns how many the others have.

        Processes are named as producers are, and count as long as they have a lease, which this renews. The process that
        creates a stream has one reader, none with `detach`, until it says otherwise. A stream that has ended has none: 0.
        Raises as `record` does.
        """
        ...

    async def order(self, order: Order) -> bool:
        """Orders the stream's producer to end or change it. Until that is done, each new producer gets the order too.

        Returns false, and does nothing, when the stream has ended. A change that was ordered already is not ordered again.
        Raises as `record` does, and `InvalidRequest` for more than `MAX_CHANGES` changes.
        """
        ...
