"""`Idempotency-Key`: what makes two requests the same request."""

from __future__ import annotations

import hashlib
import re

import msgspec
from starlette.requests import Request

from app.errors import InvalidRequest
from app.schema.requests import GenerationRequest
from app.streams.log import Idempotency

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~]{1,255}")


def idempotency_key(http: Request) -> str | None:
    """The key of the request, None without one. Raises `InvalidRequest` unless it is 1 to 255 visible ASCII characters."""
    key = http.headers.get(HEADER)
    if key is not None and _KEY.fullmatch(key) is None:
        raise InvalidRequest(f"{HEADER} must be 1 to 255 characters of visible ASCII.", param=HEADER)
    return key


def idempotency_of(key: str, route: str, request: GenerationRequest) -> Idempotency:
    """What the log keeps to know the request again. Two bodies that ask for the same are the same, however they are written."""
    said = msgspec.json.encode(request, order="deterministic")
    return Idempotency(key, hashlib.sha256(route.encode() + b"\n" + said).hexdigest())
