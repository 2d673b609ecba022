"""The client library: streams of a server as Python iterates them, over as many connections as that takes.

    async with Client("http://127.0.0.1:8000") as client:
        async with client.generate(messages=[{"role": "user", "content": "Tell me a story."}]) as stream:
            async for text in stream.text():
                print(text, end="", flush=True)

It needs httpx and msgspec. It imports nothing of the server, so it works in a project that has a package `app` of its own.
docs/client.md describes all of it.

A public name is imported from its module on first use: the server takes its frames from `streaming_inference.frames`, and
must not load httpx for them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streaming_inference.client import Client, ModelInfo
    from streaming_inference.clock import Clock
    from streaming_inference.errors import (
        AuthenticationFailed,
        ClientError,
        Conflict,
        Expired,
        GenerationFailed,
        InvalidRequest,
        NotAllowed,
        NotFound,
        NotReachable,
        ProtocolError,
        RateLimited,
        Refused,
        StreamClosed,
        TextMismatch,
        Unavailable,
    )
    from streaming_inference.frames import (
        ChoiceEnd,
        Delta,
        End,
        Error,
        ErrorDetail,
        FinishReason,
        Frame,
        Logprob,
        Message,
        Start,
        Timings,
        ToolCall,
        ToolCallPiece,
        TopLogprob,
        Usage,
    )
    from streaming_inference.request import RequestFields
    from streaming_inference.retry import RetryPolicy
    from streaming_inference.status import StreamStatus
    from streaming_inference.stream import GenerationStream, OnExit
    from streaming_inference.transcript import ChoiceResult, Result
else:
    _MODULES = {
        "client": "Client ModelInfo",
        "clock": "Clock",
        "errors": (
            "AuthenticationFailed ClientError Conflict Expired GenerationFailed InvalidRequest NotAllowed NotFound "
            "NotReachable ProtocolError RateLimited Refused StreamClosed TextMismatch Unavailable"
        ),
        "frames": (
            "ChoiceEnd Delta End Error ErrorDetail FinishReason Frame Logprob Message Start Timings ToolCall ToolCallPiece "
            "TopLogprob Usage"
        ),
        "request": "RequestFields",
        "retry": "RetryPolicy",
        "status": "StreamStatus",
        "stream": "GenerationStream OnExit",
        "transcript": "ChoiceResult Result",
    }
    _MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "AuthenticationFailed",
    "ChoiceEnd",
    "ChoiceResult",
    "Client",
    "ClientError",
    "Clock",
    "Conflict",
    "Delta",
    "End",
    "Error",
    "ErrorDetail",
    "Expired",
    "FinishReason",
    "Frame",
    "GenerationFailed",
    "GenerationStream",
    "InvalidRequest",
    "Logprob",
    "Message",
    "ModelInfo",
    "NotAllowed",
    "NotFound",
    "NotReachable",
    "OnExit",
    "ProtocolError",
    "RateLimited",
    "Refused",
    "RequestFields",
    "Result",
    "RetryPolicy",
    "Start",
    "StreamClosed",
    "StreamStatus",
    "TextMismatch",
    "Timings",
    "ToolCall",
    "ToolCallPiece",
    "TopLogprob",
    "Unavailable",
    "Usage",
]
