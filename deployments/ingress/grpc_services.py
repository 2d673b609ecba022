"""The gRPC services, as Serve adds them to its servers: calls come without the metadata that Serve acts on.

Serve reads some metadata of a call as orders. It sends `request_id` back, and a value that gRPC does not allow there costs the
call its status: the client gets INTERNAL, "Invalid metadata". `grpc_servicer_functions` of the configuration names
`add_services`, and Serve calls it in each process that listens to gRPC, HAProxy or not. docs/security.md has the list.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from app.asgi.middleware import VALID_REQUEST_ID
from app.proto.generation_pb2_grpc import add_GenerationServicer_to_server

REMOVED = frozenset({"multiplexed_model_id", "session_id"})
DECODED = frozenset({"traceparent", "tracestate"})
"""Serve uses them when tracing is on. They stay unless they are no text."""
_REQUEST_ID = "request_id"

Metadata = list[tuple[str, str | bytes]]
Handler = Callable[..., Any]


def add_services(servicer: Any, server: Any) -> None:
    """Called by Serve with a stand-in for the servicer and with its server, which makes the handlers itself."""
    server.service_handler_factory = _filtering(server.service_handler_factory)
    add_GenerationServicer_to_server(servicer, server)
    add_HealthServicer_to_server(servicer, server)


def filtered(metadata: Metadata) -> Metadata:
    """`metadata` without what Serve would act on or fail at. One `request_id` stays, if it is a valid one."""
    kept: Metadata = []
    has_request_id = False
    for name, value in metadata:
        if name in REMOVED or (name in DECODED and not value.isascii()):
            continue
        if name == _REQUEST_ID:
            if has_request_id or not isinstance(value, str) or not VALID_REQUEST_ID.fullmatch(value.encode()):
                continue
            has_request_id = True
        kept.append((name, value))
    return kept


class FilteredContext:
    """The context of a call, with less metadata."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Metadata:
        return filtered([(name, value) for name, value in self._context.invocation_metadata()])


def _filtering(factory: Callable[..., Handler]) -> Callable[..., Handler]:
    """Makes the handlers of `factory`, for calls with a `FilteredContext`."""

    def make(service_method: str, streaming_type: Any) -> Handler:
        handler = factory(service_method=service_method, streaming_type=streaming_type)

        # gRPC looks at what kind of function a handler is.
        async def answer(request: Any, context: Any) -> Any:
            return await handler(request, FilteredContext(context))

        async def answers(request: Any, context: Any) -> Any:
            async with aclosing(handler(request, FilteredContext(context))) as messages:
                async for message in messages:
                    yield message

        return answers if inspect.isasyncgenfunction(handler) else answer

    return make
