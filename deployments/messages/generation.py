"""The conversation of an ingress and a generator replica: jobs, the channel, controls.

`Generate` and `OpenChannel` are streaming calls, `Control` has one reply. A channel begins with a `Greeting`. A channel message
has everything that the generator made for one ingress since the previous message. Messages with content are numbered from 1. A
message without content is a beat and repeats the last number. So a receiver recognises what it has and what it has missed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from app.schema.tokens import Job, Steering, TokenBatch
from deployments.messages.call import Request

BEAT_S = 1.0
"""Seconds between two beats of a channel."""


class ChannelMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`batches` in the order in which the engine made them; empty in a beat."""

    number: int
    batches: list[TokenBatch]


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """What a replica says of itself when a channel opens. `deterministic` is that of its engine."""

    deterministic: bool


class OpenChannel(Request[ChannelMessage], frozen=True, array_like=True, tag="channel"):
    """Opens the channel of `ingress`. The call has a `Greeting`, then the `ChannelMessage`s after number `after`, without a
    reply around them.
    """

    ingress: str
    after: int


class Generate(Request[None], frozen=True, array_like=True, tag="generate"):
    """Starts `job`. The call has one reply, which says whether the engine has taken the job, and ends with the job."""

    job: Job


class ControlOperation(msgspec.Struct, frozen=True, array_like=True):
    """Takes one job of an ingress out of the batch, puts it back, ends its `choice`, or inserts the tokens of `steering`."""

    key: int
    action: Literal["pause", "resume", "end", "steer"]
    steering: Steering | None = None
    choice: int = 0


class Control(Request[None], frozen=True, array_like=True, tag="control"):
    """Applies the operations that one ingress has for one replica, in order."""

    ingress: str
    operations: list[ControlOperation]


decode_streaming_request = msgspec.msgpack.Decoder(OpenChannel | Generate).decode
decode_control = msgspec.msgpack.Decoder(Control).decode
decode_greeting = msgspec.msgpack.Decoder(Greeting).decode
decode_message = msgspec.msgpack.Decoder(ChannelMessage).decode
