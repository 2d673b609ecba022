"""What travels between an ingress and a generator replica: jobs and their answers, the channel, controls.

A channel message carries everything that a generator made for one ingress since the message before it. Messages with content
are numbered from 1; a message without content is a beat and repeats the number of the last one. So a receiver sees what it
has already and what it has missed, whatever broke in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from app.schema.tokens import Edit, Job, Steering, TokenBatch, TokenLogprob
from deployments.messages.refusal import Refused

BEAT_S = 1.0


class ChannelMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`batches` in the order in which the engine made them; empty in a beat."""

    number: int
    batches: list[TokenBatch]


class OpenChannel(msgspec.Struct, frozen=True, array_like=True, tag="channel"):
    """Asks for the messages to `ingress` beyond number `after`."""

    ingress: str
    after: int


class Generate(msgspec.Struct, frozen=True, array_like=True, tag="generate"):
    """Asks for one `Answer`, and to be kept open until the job has ended."""

    job: Job


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """The engine has taken the job."""


Wanted = OpenChannel | Generate
Answer = Accepted | Refused


class ControlOperation(msgspec.Struct, frozen=True, array_like=True):
    """Takes one job of an ingress out of the batch, puts it back, or puts tokens into it: `steering` says which."""

    key: int
    action: Literal["pause", "resume", "steer"]
    steering: Steering | None = None


class Control(msgspec.Struct, frozen=True, array_like=True):
    """The operations that one ingress has for one replica, applied in order."""

    ingress: str
    operations: list[ControlOperation]


encode = msgspec.msgpack.Encoder().encode
decode_wanted = msgspec.msgpack.Decoder(Wanted).decode
decode_message = msgspec.msgpack.Decoder(ChannelMessage).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
decode_control = msgspec.msgpack.Decoder(Control).decode


def merge(batches: Iterable[TokenBatch]) -> list[TokenBatch]:
    """The same tokens with one batch for each choice: what came in several steps is joined. Choices keep their order."""
    parts: dict[tuple[int, int], list[TokenBatch]] = {}
    for batch in batches:
        parts.setdefault((batch.key, batch.choice), []).append(batch)
    return [_join(part) for part in parts.values()]


def _join(part: list[TokenBatch]) -> TokenBatch:
    if len(part) == 1:
        return part[0]
    first, last = part[0], part[-1]
    return TokenBatch(
        first.key,
        first.choice,
        first.position,
        [token_id for batch in part for token_id in batch.token_ids],
        last.finish,
        last.stop_token,
        _join_logprobs(part),
        last.error,
        _join_edits(part),
    )


def _join_logprobs(part: list[TokenBatch]) -> list[TokenLogprob] | None:
    if all(batch.logprobs is None for batch in part):
        return None
    return [logprob for batch in part for logprob in batch.logprobs or []]


def _join_edits(part: list[TokenBatch]) -> list[Edit] | None:
    return [edit for batch in part for edit in batch.edits or []] or None
