"""The `ServiceError` for a call on a link that has failed."""

from __future__ import annotations

from app.errors import GeneratorUnavailable, InternalError, Overloaded, ServiceError
from deployments.ingress.replicas import ReplicaGone
from deployments.links.link import LinkBusy

RETRY_AFTER_S = 1

UNREACHABLE = (ReplicaGone, ConnectionError, TimeoutError)
"""Failures of the call itself. Other exceptions are faults of the code that was called."""


def as_service_error(failure: BaseException, callee: str) -> ServiceError:
    """The error for a client. `callee` names what was called, in words for the client."""
    if isinstance(failure, ServiceError):
        return failure
    if isinstance(failure, LinkBusy):
        return Overloaded(f"The {callee} is overloaded. Try again later.", retry_after_s=RETRY_AFTER_S)
    if isinstance(failure, UNREACHABLE):
        return GeneratorUnavailable(f"The {callee} can't be reached. Try again.", retry_after_s=RETRY_AFTER_S)
    return InternalError(f"The {callee} failed.")
