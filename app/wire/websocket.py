"""Messages of a WebSocket as JSON text: frames with their stream, the start frame with its `ref`, and replies. No I/O here."""

from __future__ import annotations

from app.schema.frames import Delta, Start
from app.schema.server_messages import Addressed
from app.wire.json_text import json_bytes, json_string


def message_json(addressed: Addressed) -> str:
    """`addressed` as one JSON object; `stream` and `ref` come last, and are left out when there is none."""
    frame, stream, ref = addressed
    # Nearly every message is a plain delta: written from a template, only its text needs encoding. The name of a stream that
    # has frames is the server's own.
    if (
        type(frame) is Delta
        and frame.token_ids is None
        and frame.logprobs is None
        and not (frame.steered or frame.reasoning or frame.tool_call)
    ):
        return (
            f'{{"type":"delta","cursor":"{frame.cursor}","index":{frame.index},'
            f'"text":{json_string(frame.text)},"tokens":{frame.tokens},"stream":"{stream}"}}'
        )
    names = {"stream": None if isinstance(frame, Start) else stream, "ref": ref}
    given = json_bytes({key: name for key, name in names.items() if name is not None})
    written = json_bytes(frame)
    return (written if given == b"{}" else written[:-1] + b"," + given[1:]).decode()
