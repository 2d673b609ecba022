"""Who calls: the one place where a request's headers become the name of an owner."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

NOBODY = ""
_OWNER_LENGTH = 32


def owner_of(headers: Mapping[str, str]) -> str:
    """The owner of what this request makes: a digest of its API key, which tells nothing of the key; "" without one.

    `headers` must find names in any case. The key is in `Authorization: Bearer KEY`, `api-key` or `x-api-key`.
    """
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    key = credentials.strip() if scheme.lower() == "bearer" else ""
    key = key or headers.get("api-key", "").strip() or headers.get("x-api-key", "").strip()
    return hashlib.sha256(key.encode()).hexdigest()[:_OWNER_LENGTH] if key else NOBODY
