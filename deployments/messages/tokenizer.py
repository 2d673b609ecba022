"""What travels between an ingress and a tokenizer replica."""

from __future__ import annotations

import msgspec

from app.ports import ModelCard
from app.schema.requests import GenerationRequest
from deployments.messages.refusal import Refused


class EncodePrompt(msgspec.Struct, frozen=True, array_like=True, tag="prompt"):
    """Asks for the ids of a request's prompt."""

    request: GenerationRequest


class EncodeText(msgspec.Struct, frozen=True, array_like=True, tag="text"):
    """Asks for the ids of a piece of text, as it stands."""

    text: str


class Encoded(msgspec.Struct, frozen=True, array_like=True, tag="encoded"):
    """The token ids of what was to be encoded."""

    token_ids: list[int]


EncodeCall = EncodePrompt | EncodeText
Encoding = Encoded | Refused

encode = msgspec.msgpack.Encoder().encode
decode_call = msgspec.msgpack.Decoder(EncodeCall).decode
decode_encoding = msgspec.msgpack.Decoder(Encoding).decode
decode_card = msgspec.msgpack.Decoder(ModelCard).decode
