from __future__ import annotations

import grpc
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from app import errors
from app.errors import GeneratorUnavailable, InternalError, InvalidRequest, Overloaded, ServiceError
from deployments.ingress.faults import from_call
from deployments.ingress.replicas import ReplicaGone
from deployments.messages.refusal import Refused, from_refusal, refusal

CLASSES = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, ServiceError)
]


@pytest.mark.parametrize(
    "error_class", [each for each in CLASSES if each not in (ServiceError, InternalError)]
)
def test_every_error_survives_the_way(error_class: type[ServiceError]) -> None:
    error = error_class("Because.", param="prompt", retry_after_s=3)
    back = from_refusal(refusal(error))
    assert type(back) is error_class
    assert (back.message, back.param, back.retry_after_s) == ("Because.", "prompt", 3)


def test_an_unknown_code_is_an_internal_error() -> None:
    assert type(from_refusal(Refused("of_tomorrow", "Because.", None, None))) is InternalError


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (InvalidRequest("Because."), InvalidRequest),
        (BackPressureError(num_queued_requests=2, max_queued_requests=1), Overloaded),
        (
            DeploymentUnavailableError(DeploymentID(name="Generator:x", app_name="streaming")),
            GeneratorUnavailable,
        ),
        (ActorDiedError(), GeneratorUnavailable),
        (ActorUnavailableError("away", b"0" * 16), GeneratorUnavailable),
        (grpc.RpcError(), GeneratorUnavailable),
        (ReplicaGone("replica-1"), GeneratorUnavailable),
        (TimeoutError(), GeneratorUnavailable),
        (ZeroDivisionError("/secret/path"), InternalError),
    ],
)
def test_failed_calls(failure: BaseException, expected: type[ServiceError]) -> None:
    error = from_call(failure, "generator")
    assert type(error) is expected
    assert "secret" not in error.message and "replica-1" not in error.message
    assert error.retry_after_s is not None or not error.retryable
