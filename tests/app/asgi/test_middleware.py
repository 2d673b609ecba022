"""The boundary around every request."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from app.asgi.middleware import SERVER_SEND, RequestBoundary

Message = dict[str, Any]
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}


def call(app: Any, scope: Message) -> list[Message]:
    """What `app` behind the boundary sends for `scope`."""
    sent: list[Message] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(RequestBoundary(app, echo_request_id=True)(scope, receive, send))
    return sent


def http(*headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http", "headers": list(headers)}


def test_an_application_that_fails_in_mid_body_leaves_it_open(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("a secret")

    with caplog.at_level(logging.ERROR):
        sent = call(app, http((b"x-request-id", b"r1")))
    assert sent == [
        {**START, "headers": [(b"a", b"b"), (b"x-request-id", b"r1")]},
        {"type": "http.response.body", "body": b"half", "more_body": True},
    ]
    assert [record.getMessage() for record in caplog.records] == ["request r1 failed"]


def test_an_application_that_fails_before_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("a secret")

    sent = call(app, http())
    assert sent[0]["status"] == 500 and b"secret" not in sent[1]["body"]
    assert "a secret" in caplog.text


def test_cancellation_passes_through() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        call(app, http())


def test_bodies_may_go_to_the_server_directly() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(dict(START))
        assert scope[SERVER_SEND] is not send
        await scope[SERVER_SEND]({"type": "http.response.body", "body": b"all"})

    assert call(app, http())[1] == {"type": "http.response.body", "body": b"all"}


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_protocols_are_left_alone(kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope == {"type": kind}
        await send({"type": f"{kind}.anything"})

    assert call(app, {"type": kind}) == [{"type": f"{kind}.anything"}]
