"""Errors as data: how a deployment tells the ingress that it refuses.

Exceptions do not survive every way in which Serve sends answers, and they would carry internal text.
"""

from __future__ import annotations

import msgspec

from app.errors import InternalError, ServiceError


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The `ServiceError` that has this `code`, with its message for the client."""

    code: str
    message: str
    param: str | None
    retry_after_s: int | None


def _classes(base: type[ServiceError]) -> dict[str, type[ServiceError]]:
    found: dict[str, type[ServiceError]] = {base.code: base}
    for subclass in base.__subclasses__():
        found |= _classes(subclass)
    return found


_CLASS_BY_CODE = _classes(ServiceError)


def refusal(error: ServiceError) -> Refused:
    """`error` as data."""
    return Refused(error.code, error.message, error.param, error.retry_after_s)


def from_refusal(refused: Refused) -> ServiceError:
    """The error that `refusal` was made from; `InternalError` for a code that this version does not know."""
    error_class = _CLASS_BY_CODE.get(refused.code, InternalError)
    return error_class(refused.message, param=refused.param, retry_after_s=refused.retry_after_s)
