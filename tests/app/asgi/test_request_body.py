"""Reading a body: its type, its size, its time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import Request

from app.asgi.request_body import read_json
from app.errors import BodyTooLarge, InvalidRequest, RequestTimeout, ServiceError, UnsupportedMediaType
from tests.fakes.loop import run

JSON = (b"content-type", b"application/json")
END = {"type": "http.request", "body": b"", "more_body": False}


def part(body: bytes) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": True}


def http(messages: Sequence[dict[str, Any]], *headers: tuple[bytes, bytes]) -> Request:
    """A request whose body comes in `messages`, one every 4 s, and then nothing."""
    remaining = list(messages)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(4 if remaining else 3600)
        return remaining.pop(0)

    return Request({"type": "http", "headers": list(headers)}, receive)


def test_a_body_in_parts() -> None:
    async def main() -> None:
        request = http([part(b'{"a"'), part(b":1"), {"type": "http.request", "body": b"}"}], JSON)
        assert await read_json(request, max_bytes=7, timeout_s=30) == b'{"a":1}'

    run(main())


@pytest.mark.parametrize(
    ("messages", "headers", "error", "message"),
    [
        ([part(b"x" * 8), END], [JSON], BodyTooLarge, "larger than 7 bytes"),
        ([part(b"xxxx"), part(b"xxxx"), END], [JSON], BodyTooLarge, "larger than 7 bytes"),
        ([], [JSON, (b"content-length", b"8")], BodyTooLarge, "larger than 7 bytes"),
        ([], [JSON, (b"content-length", b"9" * 5000)], BodyTooLarge, "larger than 7 bytes"),
        ([part(b"x")] * 7, [JSON], RequestTimeout, "within 10 s"),
        ([part(b"x")], [JSON], RequestTimeout, "within 10 s"),
        ([part(b"x"), {"type": "http.disconnect"}], [JSON], InvalidRequest, "incomplete"),
        ([END], [], UnsupportedMediaType, "application/json"),
        ([END], [(b"content-type", b"application/x-json")], UnsupportedMediaType, "application/json"),
    ],
)
def test_what_is_refused(
    messages: list[dict[str, Any]],
    headers: list[tuple[bytes, bytes]],
    error: type[ServiceError],
    message: str,
) -> None:
    async def main() -> None:
        with pytest.raises(error, match=message):
            await read_json(http(messages, *headers), max_bytes=7, timeout_s=10)

    run(main())


def test_a_length_that_is_no_number_is_left_to_the_body() -> None:
    async def main() -> None:
        assert (
            await read_json(http([END], JSON, (b"content-length", b"-1")), max_bytes=7, timeout_s=10) == b""
        )

    run(main())
