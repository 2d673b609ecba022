"""A stream as the store in memory keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.schema.frames import End, Error
from app.schema.tokens import Edit, EngineFinish, TokenBatch, TokenLogprob
from app.streams.store import Append, Order, StreamRecord
from app.wakeup import Wakeup


class StoredChoice:
    """The tokens of one choice, the edits among them, and how the engine ended it."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.edits: dict[str, Edit] = {}
        self.finish: EngineFinish | None = None
        self.stop_token: int | None = None

    def add(self, batch: TokenBatch) -> int:
        """Adds what is new in `batch`, which skips no token. Returns the number of new tokens."""
        known = len(self.token_ids) - batch.position
        fresh = batch.token_ids[known:] if known else batch.token_ids
        self.token_ids += fresh
        if batch.logprobs is not None:
            self.logprobs.extend(batch.logprobs[known:])
        if batch.edits is not None:
            for edit in batch.edits:
                self.edits.setdefault(edit.id, edit)
        if batch.finish is not None:
            self.finish, self.stop_token = batch.finish, batch.stop_token
        return len(fresh)

    def after(self, index: int, count: int) -> TokenBatch | None:
        """What follows the first `count` tokens, None if nothing does. The ending belongs to the last token.

        Edits at `count` itself are repeated, because the count does not say whether the reader knows them.
        """
        edits = [edit for edit in self.edits.values() if edit.end >= count]
        if count >= len(self.token_ids) and (self.finish is None or self.token_ids) and not edits:
            return None
        return TokenBatch(
            key=0,
            choice=index,
            position=count,
            token_ids=self.token_ids[count:],
            finish=self.finish,
            stop_token=self.stop_token,
            logprobs=self.logprobs[count:] if self.logprobs else None,
            edits=edits or None,
        )


class StoredStream:
    """A stream with its producer, its readers and the orders that are not carried out yet."""

    def __init__(self, record: StreamRecord, producer: str, expires_s: float) -> None:
        self.record = record
        self.producer = producer
        self.epoch = 1
        self.choices = [StoredChoice() for _ in range(record.request.n)]
        self.ending: End | Error | None = None
        self.expires_s = expires_s
        self.end_order: Order | None = None
        self.change_orders: dict[str, Order] = {}  # by the change's id
        self.changes = 0
        self.readers = {producer: int(not record.request.detach)}
        self.offered_s = -math.inf
        self.idempotency: tuple[str, str] | None = None
        self.waiters: set[Wakeup] = set()

    @property
    def tokens(self) -> int:
        return len(self.record.prompt) + sum(len(choice.token_ids) for choice in self.choices)

    def lacks_tokens_before(self, append: Append) -> bool:
        for batch in append.batches:  # noqa: SIM110 - a generator costs more than the rest
            if batch.position > len(self.choices[batch.choice].token_ids):
                return True
        return False

    def add(self, batches: Sequence[TokenBatch]) -> int:
        """Adds what is new in `batches`, which skip no token. Returns the number of new tokens."""
        tokens = 0
        for batch in batches:
            tokens += self.choices[batch.choice].add(batch)
            if batch.edits is not None:
                for edit in batch.edits:
                    self.change_orders.pop(edit.id, None)
        return tokens

    def after(self, counts: Sequence[int]) -> list[TokenBatch]:
        """What follows the first `counts` tokens of each choice."""
        batches = [choice.after(index, counts[index]) for index, choice in enumerate(self.choices)]
        return [batch for batch in batches if batch is not None]

    def wake(self) -> None:
        for waiter in self.waiters:
            waiter()
