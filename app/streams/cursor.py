"""Cursors: how many tokens of each choice lie behind a frame, written as counts joined by dots."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import InvalidCursor

_MAX_LENGTH = 256


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
