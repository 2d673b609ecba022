"""`Idempotency-Key`: what makes two requests the same request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from app.errors import InvalidRequest
from app.schema.requests import GenerationRequest
from app.streams.store import Idempotency

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~]{1,255}")


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The key of a request with these headers, None without one. `headers` must find names in any case.

    Raises `InvalidRequest` as `checked_key` does.
    """
    return checked_key(headers.get(HEADER))


def checked_key(key: str | None) -> str | None:
    """`key`. Raises `InvalidRequest` unless it is 1 to 255 visible ASCII characters."""
    if key is not None and _KEY.fullmatch(key) is None:
        raise InvalidRequest(f"{HEADER} must be 1 to 255 characters of visible ASCII.", param=HEADER)
    return key


def idempotency_of(key: str, route: str, request: GenerationRequest) -> Idempotency:
    """What the store keeps to know the request again. Two bodies that ask for the same are the same, however they are written."""
    said = msgspec.json.encode(request, order="deterministic")
    return Idempotency(key, hashlib.sha256(route.encode() + b"\n" + said).hexdigest())
