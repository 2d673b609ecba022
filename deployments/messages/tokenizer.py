"""The conversation of an ingress and a tokenizer replica."""

from __future__ import annotations

import msgspec

from app.ports import ModelCard
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


TokenizerRequest = Describe | EncodePrompt | EncodeText

decode_request = msgspec.msgpack.Decoder(TokenizerRequest).decode
