"""Reads the body of a request: JSON by its content type, bounded in size and in time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from app.errors import BodyTooLarge, InvalidRequest, RequestTimeout, UnsupportedMediaType

# No length has more digits, and Python refuses to read numbers of thousands of them.
_LENGTH_DIGITS = 18


async def read_json(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The body as it came, for the validator to decode.

    Raises `UnsupportedMediaType`, `BodyTooLarge` (before reading on), `RequestTimeout` and, when the client goes away
    meanwhile, `InvalidRequest`, which no client will read.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (media_type.startswith("application/") and media_type.endswith(("/json", "+json"))):
        raise UnsupportedMediaType("Send the body with content-type: application/json.", param="content-type")
    declared = request.headers.get("content-length", "")
    if (
        declared.isascii()
        and declared.isdigit()
        and (len(declared) > _LENGTH_DIGITS or int(declared) > max_bytes)
    ):
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {timeout_s:g} s.") from None
    except ClientDisconnect:
        raise InvalidRequest("The body is incomplete.") from None
    return bytes(body)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {max_bytes} bytes.")
