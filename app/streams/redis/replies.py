"""What the scripts reply, and how it is read."""

from __future__ import annotations

import struct
from typing import Literal

import msgspec

from app.schema.frames import End, Error
from app.schema.tokens import Edit, EngineFinish, TokenBatch, TokenLogprob
from app.streams.store import Change, Excerpt, Order, Rejection, StreamRecord
from app.streams.store_errors import stream_expired, stream_not_found

_Action = Literal["cancel", "stop", "change", "adopt"]
_ACTIONS: dict[str, _Action] = {"c": "cancel", "s": "stop", "e": "change", "a": "adopt"}
ORDER_LETTERS: dict[str, str] = {action: letter for letter, action in _ACTIONS.items()}
"""How an order begins in the server."""


class Finish(msgspec.Struct, frozen=True, array_like=True):
    finish: EngineFinish | None = None
    stop_token: int | None = None


class FoundBatch(msgspec.Struct, frozen=True, array_like=True):
    """A `TokenBatch` with the token ids as the server keeps them: 4 bytes each."""

    choice: int
    position: int
    tokens: bytes
    finish: Finish | None
    logprobs: list[TokenLogprob] | None
    edits: list[Edit] | None

    def batch(self) -> TokenBatch:
        end = self.finish or Finish()
        return TokenBatch(
            key=0,
            choice=self.choice,
            position=self.position,
            token_ids=list(struct.unpack(f"<{len(self.tokens) // 4}I", self.tokens)),
            finish=end.finish,
            stop_token=end.stop_token,
            logprobs=self.logprobs,
            edits=self.edits,
        )


class FoundStream(msgspec.Struct, frozen=True, array_like=True):
    """The reply to a read. For `status` see `check_status`."""

    status: int
    batches: list[FoundBatch]
    ending: End | Error | None
    orphaned: bool
    expires_ms: int

    @property
    def has_news(self) -> bool:
        """Whether there is more than the ends of choices of which the reader has all tokens."""
        return (
            self.status != 1
            or self.ending is not None
            or self.orphaned
            or any(batch.tokens for batch in self.batches)
        )

    def excerpt(self) -> Excerpt:
        batches = [batch.batch() for batch in self.batches]
        return Excerpt(batches, self.ending, self.orphaned, self.expires_ms / 1000)


class GivenOrder(msgspec.Struct, frozen=True, array_like=True):
    """An order as the server keeps it, under `member` with `score`. `change` is that of an order to change a stream."""

    member: str
    score: str
    change: Change | None

    def order(self) -> Order:
        action, stream = _ACTIONS[self.member[0]], self.member[1:]
        return Order(action, stream if self.change is None else stream[len(self.change.id) :], self.change)


decode_found = msgspec.msgpack.Decoder(list[FoundStream]).decode
decode_orders = msgspec.msgpack.Decoder(list[GivenOrder]).decode
decode_record = msgspec.msgpack.Decoder(StreamRecord).decode
decode_rejections = msgspec.msgpack.Decoder(list[Rejection]).decode


def check_status(status: int) -> None:
    """Raises for the status of a stream that the server does not keep."""
    if status == -1:
        raise stream_expired()
    if status == 0:
        raise stream_not_found()
