"""The messages of a chat as a client writes them: content as a string, or as a list of text parts.

The rules are the same for both dialects; the native one refuses unknown fields, the OpenAI one ignores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from app.schema.fields import field_error, refuse_unknown
from app.schema.requests import Message

MAX_MESSAGES = 1024
MAX_PARTS = 256

_ROLES = ("system", "developer", "user", "assistant")


def _text_only(kind: str) -> str:
    if kind != "text":
        raise field_error("is not supported: only parts of type text are")
    return kind


def _known_role(role: str) -> str:
    if role in ("tool", "function"):
        raise field_error("is not supported: tools are not available yet")
    if role not in _ROLES:
        raise field_error("must be one of system, developer, user, assistant")
    return role


def _string_or_parts(content: object) -> str:
    return "parts" if isinstance(content, list) else "string"


PartType = Annotated[str, AfterValidator(_text_only), Field(json_schema_extra={"enum": ["text"]})]
Role = Annotated[str, AfterValidator(_known_role), Field(json_schema_extra={"enum": list(_ROLES)})]


class TextPart(BaseModel):
    """A piece of a message. Pieces are put together as they are, with nothing between them."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: PartType
    text: str

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: object) -> object:
        # An image has other fields than a text: say that it is an image, not that its fields are unknown.
        if isinstance(value, dict) and value.get("type", "text") == "text":
            refuse_unknown(cls, value)
        return value


def _as_text_part(part: object) -> object:
    """What OpenAI clients send as a part of text: with fields that mean nothing here (cache marks, annotations), as a string,
    under the names of the Responses API. A refusal is what the assistant has said; what it has thought is not.
    """
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind in ("thinking", "redacted_thinking", "reasoning"):
        return {"type": "text", "text": ""}
    named = {key: part[key] for key in ("type", "text") if part.get(key) is not None}
    return named | {"type": "text"} if kind in ("input_text", "output_text") else named


Parts = Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]
LenientParts = Annotated[
    list[Annotated[TextPart, BeforeValidator(_as_text_part)]],
    Field(max_length=MAX_PARTS, fail_fast=True),
]


def _with_content(message: object) -> object:
    """An assistant's message may lack its content: it has refused, or said nothing."""
    if isinstance(message, dict) and message.get("content") is None and message.get("role") == "assistant":
        refusal = message.get("refusal")
        return message | {"content": refusal if isinstance(refusal, str) else ""}
    return message


class ChatMessage(BaseModel):
    """One message of a native body."""

    model_config = ConfigDict(strict=True, extra="forbid")
    role: Role
    content: Annotated[
        Annotated[str, Tag("string")] | Annotated[Parts, Tag("parts")],
        Discriminator(_string_or_parts),
    ]

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: object) -> object:
        refuse_unknown(cls, value)
        return _with_content(value)


class OpenAIChatMessage(BaseModel):
    """One message of an OpenAI body. Names and the like are ignored; what would change the answer is refused."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Role
    content: Annotated[
        Annotated[str, Tag("string")] | Annotated[LenientParts, Tag("parts")],
        Discriminator(_string_or_parts),
    ]
    tool_calls: Annotated[Any, Field(json_schema_extra={"deprecated": True})] = None
    function_call: Annotated[Any, Field(json_schema_extra={"deprecated": True})] = None
    audio: Annotated[Any, Field(json_schema_extra={"deprecated": True})] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: object) -> object:
        if isinstance(value, dict):
            for name in ("tool_calls", "function_call", "audio"):
                if value.get(name):
                    raise field_error("is not supported yet", field=name)
        return _with_content(value)


ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
OpenAIChatMessages = Annotated[
    list[OpenAIChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]


def to_messages(messages: Sequence[ChatMessage | OpenAIChatMessage]) -> tuple[Message, ...]:
    """The messages as the tokenizer's template takes them: parts joined, `developer` as `system`."""
    return tuple(
        Message(
            role="system" if message.role == "developer" else message.role,
            content=message.content
            if isinstance(message.content, str)
            else "".join(part.text for part in message.content),
        )
        for message in messages
    )
