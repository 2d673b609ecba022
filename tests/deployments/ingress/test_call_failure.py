"""Failed calls are errors for clients, which show nothing of the inside."""

from __future__ import annotations

import pytest

from app.errors import GeneratorUnavailable, InternalError, InvalidRequest, Overloaded, ServiceError
from deployments.ingress.call_failure import as_service_error
from deployments.ingress.replicas import ReplicaGone
from deployments.links.link import LinkBroken, LinkBusy, LinkFailed


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (InvalidRequest("Because."), InvalidRequest),
        (LinkBusy(), Overloaded),
        (LinkBroken("10.0.0.1"), GeneratorUnavailable),
        (ConnectionRefusedError(), GeneratorUnavailable),
        (ReplicaGone("replica-1"), GeneratorUnavailable),
        (TimeoutError(), GeneratorUnavailable),
        (LinkFailed("secret"), InternalError),
        (ZeroDivisionError("/secret/path"), InternalError),
    ],
)
def test_failed_calls(failure: BaseException, expected: type[ServiceError]) -> None:
    error = as_service_error(failure, "generator")
    assert type(error) is expected
    assert not any(word in error.message for word in ("secret", "replica-1", "10.0.0.1"))
    assert error.retry_after_s is not None or not error.retryable
