"""Server-sent events as bytes: events, comments, and the frames of a native stream.

No I/O here. Every function returns whole events, each ended by its empty line, so that what it returns can be written as it
is and joined with others. JSON has no raw newline, which is what keeps an event in one `data:` line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.schema.frames import Delta, End, Error, Frame
from app.wire.json_text import json_bytes, json_string

MEDIA_TYPE = "text/event-stream; charset=utf-8"
# A comment and its empty line: with one newline only, some clients lose the token that follows.
HEARTBEAT = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


def event(data: bytes, event_id: str | None = None, event_name: str | None = None) -> bytes:
    """One event with `data` in one line. Raises `ValueError` for a line break in any part, which would end the line."""
    head = ""
    if event_id is not None:
        head += f"id: {_one_line(event_id)}\n"
    if event_name is not None:
        head += f"event: {_one_line(event_name)}\n"
    if b"\n" in data or b"\r" in data:
        raise ValueError("the data of an event must be one line")
    return b"%bdata: %b\n\n" % (head.encode(), data)


def comment(text: str) -> bytes:
    """One comment line, without the empty line after it. Line breaks and control characters become spaces."""
    return f": {_BREAKS.sub(' ', text)}\n".encode()


def _one_line(value: str) -> str:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError("the id and the name of an event must be one line")
    return value


class NativeSseEncoder:
    """The frames of one stream as events with `id: <stream>:<cursor>` and `data: <frame>`, and nothing else.

    The id of a terminal frame ends in `:end`: a client that comes back with it has seen the ending, one with the same cursor
    alone has not.

    It keeps no state between calls, so it may start at any cursor.
    """

    media_type = MEDIA_TYPE
    heartbeat = HEARTBEAT

    def __init__(self, stream_id: str) -> None:
        self._id_prefix = f"id: {_one_line(stream_id)}:"

    def encode(self, frames: Sequence[Frame]) -> bytes:
        event = self._event
        if len(frames) == 1:  # nearly always
            return event(frames[0]).encode()
        return "".join(map(event, frames)).encode()

    def _event(self, frame: Frame) -> str:
        cursor = frame.cursor
        # Nearly every frame is a plain delta: written from a template, only its text needs encoding.
        if (
            type(frame) is Delta
            and frame.token_ids is None
            and frame.logprobs is None
            and not (frame.steered or frame.reasoning or frame.tool_call)
        ):
            return (
                f'{self._id_prefix}{cursor}\ndata: {{"type":"delta","cursor":"{cursor}","index":{frame.index},'
                f'"text":{json_string(frame.text)},"tokens":{frame.tokens}}}\n\n'
            )
        end = ":end" if isinstance(frame, End | Error) else ""
        return f"{self._id_prefix}{cursor}{end}\ndata: {json_bytes(frame).decode()}\n\n"
