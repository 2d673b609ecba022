"""The conversation of an ingress and a tokenizer replica."""

from __future__ import annotations

import msgspec

from app.ports import ModelCard
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest
from deployments.messages.call import Request


class Describe(Request[ModelCard], frozen=True, array_like=True, tag="describe"):
    """Asks for the card of the model."""


class EncodePrompt(Request[list[int]], frozen=True, array_like=True, tag="prompt"):
    """Asks for the token ids of a request's prompt."""

    request: GenerationRequest


class EncodeText(Request[list[int]], frozen=True, array_like=True, tag="text"):
    """Asks for the token ids of a piece of text, as it stands."""

    text: str


class CheckConstraint(Request[None], frozen=True, array_like=True, tag="constraint"):
    """Asks whether a constraint can be kept: an error says that it can't."""

    constraint: Constraint


TokenizerRequest = Describe | EncodePrompt | EncodeText | CheckConstraint

decode_request = msgspec.msgpack.Decoder(TokenizerRequest).decode
