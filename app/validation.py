"""The one validator: JSON or objects in, bodies out, and every mistake as an `InvalidRequest` that names the field.

Field names are written as the client wrote them (`messages[0].content`). Messages are sentences for people; they show
numbers that were out of range, but no text of the request and nothing of the library that checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from app.errors import InvalidRequest
from app.schema.client_messages import MESSAGE_TYPES, ClientMessage
from app.schema.fields import FIELD_ERROR

Body = TypeVar("Body", bound=BaseModel)

MAX_FIELD_LENGTH = 128


def parse_body(body_type: type[Body], raw: bytes) -> Body:
    """The body of an HTTP request. Raises `InvalidRequest` for broken JSON and for what does not fit `body_type`."""
    return parse_object(body_type, decode_json(raw))


def decode_json(raw: bytes) -> object:
    """What the JSON says. Raises `InvalidRequest`."""
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        place = re.search(r"at line \d+ column \d+$", str(error))
        raise InvalidRequest(f"The body is not valid JSON{f' ({place[0]})' if place else ''}.") from None


def parse_message(value: object) -> ClientMessage:
    """A client's message on a connection of many streams, by its `type`. Raises `InvalidRequest`."""
    if not isinstance(value, Mapping):
        raise InvalidRequest("The body must be a JSON object.")
    kind = value.get("type")
    if kind is None:
        raise InvalidRequest("type is required.", param="type")
    message_type = MESSAGE_TYPES.get(kind) if isinstance(kind, str) else None
    if message_type is None:
        raise InvalidRequest(f"type must be one of {', '.join(MESSAGE_TYPES)}.", param="type")
    return parse_object(message_type, value)


def parse_object(body_type: type[Body], value: object) -> Body:
    """The same for what is decoded already: messages of a WebSocket, arguments of a handle."""
    try:
        return body_type.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=True)[0]
    raise _invalid_request(first, value)


def _invalid_request(error: ErrorDetails, body: object) -> InvalidRequest:
    if not isinstance(body, Mapping):
        return InvalidRequest("The body must be a JSON object.")
    context = error.get("ctx", {})
    location = list(error["loc"])
    if "field" in context:
        location.append(context["field"])
    if error["type"] == "union_tag_not_found" or error["type"] == "union_tag_invalid":
        location.append(str(context["discriminator"]).strip("'"))
    param = _field_name(location, body, missing=error["type"] in ("missing", "union_tag_not_found"))
    return InvalidRequest(f"{param or 'The body'} {_complaint(error, context)}.", param=param)


def _field_name(location: list[Any], body: object, *, missing: bool) -> str | None:
    """`location` as the client sees it: parts that are not in the body (the library's marks) are left out."""
    name = ""
    inside: Any = body
    for depth, part in enumerate(location):
        if isinstance(inside, Mapping) and part in inside:
            name += f".{part}" if name else str(part)
            inside = inside[part]
        elif isinstance(inside, list | tuple) and isinstance(part, int) and 0 <= part < len(inside):
            name += f"[{part}]"
            inside = inside[part]
        elif missing and depth == len(location) - 1:
            name += f".{part}" if name else str(part)
    return name[:MAX_FIELD_LENGTH] or None


def _complaint(error: ErrorDetails, context: Mapping[str, Any]) -> str:
    """What is wrong, as the end of a sentence that begins with the field's name."""
    if error["type"] == FIELD_ERROR:
        return error["msg"]
    write = _COMPLAINTS.get(error["type"])
    if write is None:
        return "is not valid"
    given = error["input"]
    # A number out of range is repeated. Nothing else of the request is.
    if error["type"] in _NUMERIC and isinstance(given, int | float) and abs(given) < 1e15:
        return f"{write(context)}, not {given:.15g}"
    return write(context)


def _always(text: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda context: text


_COMPLAINTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": _always("is required"),
    "union_tag_not_found": _always("is required"),
    "union_tag_invalid": lambda context: (
        f"must be one of {str(context['expected_tags']).replace(chr(39), '')}"
    ),
    "literal_error": lambda context: f"must be one of {str(context['expected']).replace(chr(39), '')}",
    "string_type": _always("must be a string"),
    "string_unicode": _always("must be valid Unicode"),
    "int_type": _always("must be an integer"),
    "int_from_float": _always("must be an integer"),
    "float_type": _always("must be a number"),
    "finite_number": _always("must be a finite number"),
    "bool_type": _always("must be true or false"),
    "list_type": _always("must be a list"),
    "dict_type": _always("must be an object"),
    "model_type": _always("must be an object"),
    "model_attributes_type": _always("must be an object"),
    "greater_than": lambda context: f"must be greater than {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {_number(context['ge'])}",
    "less_than_equal": lambda context: f"must be at most {_number(context['le'])}",
    "string_too_short": lambda context: "must not be empty",
    "string_too_long": lambda context: f"must have at most {context['max_length']} characters",
    "too_short": lambda context: "must not be empty",
    "too_long": lambda context: f"must have at most {context['max_length']} entries",
}

_NUMERIC = frozenset({"int_from_float", "greater_than", "greater_than_equal", "less_than_equal"})


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
