"""Bodies of JSON as gRPC requests, as far as the types of the messages let a client say them."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from app.proto import generation_pb2 as pb

_TYPES: dict[int, tuple[type, ...]] = {
    FieldDescriptor.TYPE_STRING: (str,),
    FieldDescriptor.TYPE_BOOL: (bool,),
    FieldDescriptor.TYPE_INT64: (int,),
    FieldDescriptor.TYPE_DOUBLE: (int, float),
}
_ON_DISCONNECT = {
    "cancel": pb.ON_DISCONNECT_CANCEL,
    "grace": pb.ON_DISCONNECT_GRACE,
    "continue": pb.ON_DISCONNECT_CONTINUE,
}
_MODES = {"none": pb.TOOL_MODE_NONE, "auto": pb.TOOL_MODE_AUTO, "required": pb.TOOL_MODE_REQUIRED}
_UNKNOWN = 77


class Inexpressible(Exception):
    """The types of the messages leave no room for this mistake."""


def grpc_request(body: Any) -> pb.GenerateRequest:
    """The request that says the same as `body`. Raises `Inexpressible`."""
    if not isinstance(body, dict):
        raise Inexpressible
    if len(body.keys() & {"prompt", "messages", "prompt_token_ids"}) > 1:
        raise Inexpressible
    try:
        return pb.GenerateRequest(**{name: _field(name, value) for name, value in body.items()})
    except (TypeError, ValueError, AttributeError):
        raise Inexpressible from None


def _field(name: str, value: Any) -> Any:
    if name == "messages":
        return pb.Chat(messages=[_message(message) for message in _list(value)])
    if name == "prompt_token_ids":
        return pb.TokenIds(ids=[_typed(FieldDescriptor.TYPE_INT64, each) for each in _list(value)])
    if name == "stop":
        return [_typed(FieldDescriptor.TYPE_STRING, stop) for stop in _list(value)]
    if name == "stop_token_ids":
        return [_typed(FieldDescriptor.TYPE_INT64, each) for each in _list(value)]
    if name == "logit_bias":
        return {
            _key(token): _typed(FieldDescriptor.TYPE_DOUBLE, bias) for token, bias in _dict(value).items()
        }
    if name == "on_disconnect":
        return _ON_DISCONNECT.get(value, _UNKNOWN)
    if name == "tools":
        return [_tool(_dict(tool)) for tool in _list(value)]
    if name == "tool_choice":
        return _tool_choice(value)
    if name == "chat_template_kwargs":
        return json.dumps(_dict(value))
    if name == "response_format":
        return _response_format(_dict(value))
    field = pb.GenerateRequest.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise Inexpressible
    return _typed(field.type, value)


def _typed(kind: int, value: Any) -> Any:
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and _TYPES[kind] != (bool,)):
        raise Inexpressible
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Inexpressible
    return value


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Inexpressible
    return value


def _key(token: str) -> int:
    if str(int(token)) != token:
        raise Inexpressible
    return int(token)


def _message(message: Any) -> pb.ChatMessage:
    said = pb.ChatMessage()
    for name, value in _dict(message).items():
        if name == "role":
            said.role = value
        elif name == "tool_calls":
            said.tool_calls.extend(_call(_dict(call)) for call in _list(value))
        elif name in ("reasoning", "tool_call_id", "name"):
            setattr(said, name, value)
        elif name == "content" and value is None and "tool_calls" in message:
            continue
        elif name == "content" and isinstance(value, list):
            said.parts.SetInParent()
            said.parts.parts.extend(_part(part) for part in value)
        elif name == "content":
            said.text = value
        else:
            raise Inexpressible
    return said


def _part(part: dict[str, Any]) -> pb.TextPart:
    if part.keys() - {"type", "text"} or part.get("type") != "text":
        raise Inexpressible
    return pb.TextPart(text=part.get("text"))


def _call(call: dict[str, Any]) -> pb.ToolCall:
    function = _only(call, "id", "type", "function").get("function")
    if "function" not in call:
        raise Inexpressible
    return pb.ToolCall(id=call.get("id"), **_only(_dict(function), "name", "arguments"))


def _tool(tool: dict[str, Any]) -> pb.Tool:
    function = _only(_dict(tool.get("function")), "name", "description", "parameters", "strict")
    _only(tool, "type", "function")
    if "parameters" in function:
        function = function | {"parameters": json.dumps(function["parameters"])}
    return pb.Tool(**function)


def _only(value: dict[str, Any], *names: str) -> dict[str, Any]:
    if value.keys() - set(names) or value.get("type", "function") != "function":
        raise Inexpressible
    return value


def _tool_choice(choice: Any) -> pb.ToolChoice:
    if isinstance(choice, str):
        return pb.ToolChoice(mode=_MODES.get(choice, _UNKNOWN))  # type: ignore[arg-type]
    if _dict(choice).get("type") == "allowed_tools":
        allowed = choice["allowed_tools"]
        names = [tool["function"]["name"] for tool in allowed["tools"]]
        mode = _MODES.get(allowed.get("mode", "auto"), _UNKNOWN)
        return pb.ToolChoice(allowed_tools=pb.AllowedTools(mode=mode, names=names))  # type: ignore[arg-type]
    function = _only(choice, "type", "function").get("function")
    if not function:
        raise Inexpressible
    return pb.ToolChoice(function=function["name"])


def _response_format(value: dict[str, Any]) -> pb.ResponseFormat:
    kind = value.get("type")
    if kind is None:
        return pb.ResponseFormat()
    if kind == "json_schema":
        schema = value["json_schema"]
        said = json.dumps(schema["schema"]) if "schema" in schema else None
        return pb.ResponseFormat(
            json_schema=pb.ResponseFormat.JsonSchema(name=schema.get("name"), schema=said)
        )
    if kind == "regex":
        return pb.ResponseFormat(regex=pb.ResponseFormat.Regex(pattern=value.get("pattern")))
    if kind == "grammar":
        return pb.ResponseFormat(grammar=pb.ResponseFormat.Grammar(grammar=value.get("grammar")))
    return pb.ResponseFormat(**{kind: {}})
