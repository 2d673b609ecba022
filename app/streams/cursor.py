"""Cursors: how many tokens each choice has up to the end of a frame, written as counts joined by dots."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from app.errors import InvalidCursor, InvalidRequest

_MAX_LENGTH = 256
_EVENT_ID = re.compile(r"([!-~]{1,256}):([0-9]+(?:\.[0-9]+)*)(:end)?")


class EventId(NamedTuple):
    """What the id of a server-sent event says; `is_end`: it is that of a terminal event."""

    stream: str
    cursor: str
    is_end: bool


def format_cursor(counts: Sequence[int]) -> str:
    """`[12, 9, 14]` → `"12.9.14"`."""
    return ".".join(map(str, counts))


def parse_cursor(cursor: str, choices: int) -> list[int]:
    """The counts in `cursor`, of a stream with so many choices; `"0"` is the beginning of any stream.

    Raises `InvalidCursor` when it is no cursor of such a stream. Whether the stream reaches that far is the caller's question.
    """
    if cursor == "0":
        return [0] * choices
    parts = cursor.split(".") if len(cursor) <= _MAX_LENGTH else []
    if len(parts) != choices or not all(part.isascii() and part.isdigit() for part in parts):
        raise InvalidCursor(
            f"The cursor is not one of this stream, which has {choices} choice(s).", param="after"
        )
    return [int(part) for part in parts]


def check_reached(counts: Sequence[int], reached: Sequence[int], *, ahead_tokens: int = 0) -> None:
    """Raises `InvalidCursor` when a choice of `counts` is more than `ahead_tokens` beyond what a stream has `reached`."""
    if any(count > most + ahead_tokens for count, most in zip(counts, reached, strict=True)):
        raise InvalidCursor(
            f"The cursor {format_cursor(counts)} is beyond the stream, which is at {format_cursor(reached)}.",
            param="after",
        )


def parse_event_id(event_id: str) -> EventId:
    """Reads `<stream>:<cursor>`, the id of a server-sent event, or `<stream>:<cursor>:end`, that of a terminal one.

    Raises `InvalidRequest` when it is not of that form. Whether there is such a stream is the caller's question.
    """
    match = _EVENT_ID.fullmatch(event_id)
    if match is None:
        raise InvalidRequest("Last-Event-ID is not the id of an event of a stream.", param="Last-Event-ID")
    return EventId(match[1], match[2], match[3] is not None)
