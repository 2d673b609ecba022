"""The messages of a chat as a client writes them: content as a string or as a list of text parts, and calls of tools.

The rules are the same for both dialects; the native one refuses unknown fields, the OpenAI one ignores them and takes more.
"""

from __future__ import annotations

import json
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

from app.schema.fields import Fields, field_error, refuse_unknown
from app.schema.requests import Message
from app.schema.tool_fields import ToolType
from app.schema.tools import ToolCall

MAX_MESSAGES = 1024
MAX_PARTS = 256
MAX_CALLS = 256
MAX_NAME_LENGTH = 256
MAX_CALL_ID_LENGTH = 8192
"""Some gateways keep more than a name in them."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


def _text_only(kind: str) -> str:
    if kind != "text":
        raise field_error("is not supported: only parts of type text are")
    return kind


def _known_role(role: str) -> str:
    if role not in _ROLES:
        raise field_error("must be one of system, developer, user, assistant, tool")
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


class CalledFunction(Fields):
    """What was called, and with what: JSON text."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    arguments: str = ""


class MessageToolCall(Fields):
    """A call that the assistant has made."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=MAX_CALL_ID_LENGTH)] = ""
    type: ToolType = "function"
    function: CalledFunction


def _as_openai_call(call: object) -> object:
    """A call as OpenAI clients send it: with fields that mean nothing here, or with arguments that are no text yet."""
    if not isinstance(call, dict):
        return call
    named = {key: call[key] for key in ("id", "type", "function") if key in call}
    if isinstance(function := call.get("function"), dict):
        named["function"] = {key: function[key] for key in ("name", "arguments") if key in function}
        if isinstance(arguments := function.get("arguments"), dict):
            named["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return named


ToolCalls = Annotated[list[MessageToolCall], Field(max_length=MAX_CALLS, fail_fast=True)]
LenientToolCalls = Annotated[
    list[Annotated[MessageToolCall, BeforeValidator(_as_openai_call)]],
    Field(max_length=MAX_CALLS, fail_fast=True),
]
CallId = Annotated[str, Field(max_length=MAX_CALL_ID_LENGTH)]
AuthorName = Annotated[str, Field(max_length=MAX_NAME_LENGTH)]


def _with_content(message: object) -> object:
    """An assistant's message may lack its content: it has refused, called tools, or said nothing."""
    if isinstance(message, dict) and message.get("content") is None and message.get("role") == "assistant":
        refusal = message.get("refusal")
        return message | {"content": refusal if isinstance(refusal, str) else ""}
    return message


def _check_role(message: dict[str, Any]) -> None:
    """Refuses fields that a message of this role can't have."""
    for field, role in (("tool_calls", "assistant"), ("reasoning", "assistant"), ("tool_call_id", "tool")):
        if message.get(field) and message.get("role") != role:
            raise field_error("is only allowed in a message of the role {role}", field=field, role=role)


class ChatMessage(BaseModel):
    """One message of a native body. `reasoning` and `tool_calls` are an assistant's, `tool_call_id` is a tool's."""

    model_config = ConfigDict(strict=True, extra="forbid")
    role: Role
    content: Annotated[
        Annotated[str, Tag("string")] | Annotated[Parts, Tag("parts")],
        Discriminator(_string_or_parts),
    ]
    reasoning: str | None = None
    tool_calls: ToolCalls | None = None
    tool_call_id: CallId | None = None
    name: AuthorName | None = None

    @model_validator(mode="before")
    @classmethod
    def _check(cls, value: object) -> object:
        refuse_unknown(cls, value)
        if isinstance(value, dict):
            _check_role(value)
        return _with_content(value)


def _of_the_older_form(message: dict[str, Any]) -> dict[str, Any]:
    """Messages with `function_call` and of the role `function` are calls and answers whose id is the function's name."""
    call = message.get("function_call")
    if call and not message.get("tool_calls"):
        name = call.get("name") if isinstance(call, dict) else None
        return message | {"tool_calls": [{"id": f"call_{name}", "function": call}]}
    if message.get("role") == "function":
        return message | {"role": "tool", "tool_call_id": f"call_{message.get('name')}"}
    return message


class OpenAIChatMessage(BaseModel):
    """One message of an OpenAI body. Other fields are ignored, but for audio."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: Role
    content: Annotated[
        Annotated[str, Tag("string")] | Annotated[LenientParts, Tag("parts")],
        Discriminator(_string_or_parts),
    ]
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: LenientToolCalls | None = None
    tool_call_id: CallId | None = None
    name: AuthorName | None = None
    audio: Annotated[Any, Field(json_schema_extra={"deprecated": True})] = None

    @model_validator(mode="before")
    @classmethod
    def _as_clients_write(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if value.get("audio"):
            raise field_error("is not supported yet", field="audio")
        message = _of_the_older_form(value)
        role = message.get("role")
        if message.get("tool_calls") and role != "assistant":
            raise field_error("is only allowed in a message of the role assistant", field="tool_calls")
        if role == "tool" and message.get("content") is None:
            return message | {"content": ""}
        return _with_content(message)


ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
OpenAIChatMessages = Annotated[
    list[OpenAIChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
]


def to_messages(messages: Sequence[ChatMessage | OpenAIChatMessage]) -> tuple[Message, ...]:
    """The messages as the tokenizer's template takes them: parts joined, `developer` as `system`."""
    return tuple(map(_to_message, messages))


def _to_message(message: ChatMessage | OpenAIChatMessage) -> Message:
    content = message.content
    reasoning = message.reasoning
    if isinstance(message, OpenAIChatMessage):
        reasoning = message.reasoning_content or reasoning
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=content if isinstance(content, str) else "".join(part.text for part in content),
        # What others than the assistant have thought is no part of a chat.
        reasoning=(reasoning or "") if message.role == "assistant" else "",
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
            for call in message.tool_calls or ()
        ),
        tool_call_id=message.tool_call_id if message.role == "tool" else None,
        name=message.name,
    )
