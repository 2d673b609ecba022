"""The wire formats whose exact bytes are kept in `tests/golden`, one file for each stream and format.

`python -m tests.cases.golden` writes the files anew; read the difference before you keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from app.asgi.responder import Fold
from app.dialects import native
from app.dialects.openai import ChatFold, ChatStreamEncoder, CompletionFold, CompletionStreamEncoder
from app.schema.frames import Error
from app.schema.openai import StreamOptions
from app.schema.server_messages import Addressed
from app.wire.json_text import json_bytes
from app.wire.sse import NativeSseEncoder
from app.wire.websocket import message_json
from tests.cases.folds import folded
from tests.cases.frames import CHOICES, STREAM, STREAMS

FOLDER = Path(__file__).parent.parent / "golden"

_USAGE = StreamOptions(include_usage=True)
_CONTINUOUS = StreamOptions(include_usage=True, continuous_usage_stats=True)

SSE: dict[str, Callable[[str], bytes]] = {
    "native": lambda name: NativeSseEncoder(STREAM).encode(STREAMS[name]),
    "chat": lambda name: ChatStreamEncoder(n=CHOICES[name]).encode(STREAMS[name]),
    "chat_usage": lambda name: ChatStreamEncoder(n=CHOICES[name], options=_USAGE).encode(STREAMS[name]),
    "chat_continuous": lambda name: ChatStreamEncoder(n=CHOICES[name], options=_CONTINUOUS).encode(
        STREAMS[name]
    ),
    "completion": lambda name: CompletionStreamEncoder(n=CHOICES[name]).encode(STREAMS[name]),
    "completion_usage": lambda name: CompletionStreamEncoder(n=CHOICES[name], options=_USAGE).encode(
        STREAMS[name]
    ),
}

FOLDS: dict[str, Callable[[], Fold]] = {
    "native": native.Fold,
    "chat": ChatFold,
    "completion": CompletionFold,
}


def _folded(name: str, make: Callable[[], Fold]) -> bytes:
    return msgspec.json.format(json_bytes(folded(make(), STREAMS[name])), indent=2) + b"\n"


def _messages(name: str) -> bytes:
    """The messages of a WebSocket, one a line."""
    frames = STREAMS[name]
    refs = ["a", *[None] * (len(frames) - 1)]
    written = [message_json(Addressed(frame, STREAM, ref)) for frame, ref in zip(frames, refs, strict=True)]
    return "".join(f"{message}\n" for message in written).encode()


def golden() -> dict[str, bytes]:
    """The files by name, as the code makes them now."""
    files = {f"{name}.{kind}.sse": write(name) for name in STREAMS for kind, write in SSE.items()}
    files |= {f"{name}.websocket.jsonl": _messages(name) for name in STREAMS}
    whole = [name for name, frames in STREAMS.items() if not isinstance(frames[-1], Error)]
    files |= {f"{name}.{kind}.json": _folded(name, make) for name in whole for kind, make in FOLDS.items()}
    return files


if __name__ == "__main__":
    for file_name, content in golden().items():
        (FOLDER / file_name).write_bytes(content)
