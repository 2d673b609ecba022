"""Reads the body of a request: JSON by its content type, unpacked, bounded in size and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from app.asgi.content_encoding import CONTENT_ENCODING, PIECE_BYTES, unpacker_of
from app.errors import BodyTooLarge, InvalidRequest, RequestTimeout, UnsupportedMediaType

# No length has more digits, and Python refuses to read numbers of thousands of them.
_LENGTH_DIGITS = 18


async def read_json(
    request: Request, *, max_bytes: int, timeout_s: float, count: Callable[[int], None] | None = None
) -> bytes:
    """The body, unpacked, for the validator to decode. `count` is told of the bytes of it that come to be held.

    Raises `UnsupportedMediaType`, `UnsupportedEncoding`, `BodyTooLarge` (before reading on), `RequestTimeout`, and what
    `count` raises; `InvalidRequest` for a body that is incomplete or can't be unpacked.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (media_type.startswith("application/") and media_type.endswith(("/json", "+json"))):
        raise UnsupportedMediaType("Send the body with content-type: application/json.", param="content-type")
    unpacker = unpacker_of(", ".join(request.headers.getlist(CONTENT_ENCODING)))
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
            async for part in request.stream():
                for piece in unpacker.unpack(part):
                    if len(body) + len(piece) > max_bytes:
                        raise _too_large(max_bytes)
                    if count is not None:
                        count(len(piece))
                    body += piece
                    if len(piece) == PIECE_BYTES:
                        await asyncio.sleep(0)  # others go on while a body is unpacked
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {timeout_s:g} s.") from None
    except ClientDisconnect:
        raise InvalidRequest("The body is incomplete.") from None
    if not unpacker.complete:
        raise InvalidRequest("The body is incomplete.", param=CONTENT_ENCODING)
    return bytes(body)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {max_bytes} bytes.")
