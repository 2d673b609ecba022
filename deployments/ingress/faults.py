"""Which `ServiceError` a failed call to a deployment is, through Serve or on a link."""

from __future__ import annotations

import grpc
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from app.errors import GeneratorUnavailable, InternalError, Overloaded, ServiceError
from deployments.ingress.replicas import ReplicaGone
from deployments.links.link import LinkBusy

RETRY_AFTER_S = 1

CALL_FAILURES = (RayError, RayServeException, grpc.RpcError, ReplicaGone, ConnectionError, TimeoutError)
"""What a call raises when the call, not the code behind it, has failed."""


def from_call(error: BaseException, what: str) -> ServiceError:
    """The `ServiceError` for an exception out of a call to `what`, a noun for the client."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, (BackPressureError, LinkBusy)):
        return Overloaded(f"The {what} has too much to do. Try again later.", retry_after_s=RETRY_AFTER_S)
    if isinstance(error, CALL_FAILURES):
        return GeneratorUnavailable(f"The {what} can't be reached. Try again.", retry_after_s=RETRY_AFTER_S)
    return InternalError(f"The {what} failed.")
