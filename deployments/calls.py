"""Calls to the generator replicas: what the ingress needs of them, and how Serve's handles and links do it.

Serve finds a replica for a job and counts it; what goes to a replica whose name is known goes over a link.

Every call is made outside of Serve's request context. A call that Serve knows as the child of a request is cancelled with that
request, whereas streams and channels outlive the connection that needed them first.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

from ray.serve._private.constants import RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP, RAY_SERVE_USE_GRPC_BY_DEFAULT
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.channel import OpenChannel, encode


class Call(Protocol):
    """A call under way whose answers come one by one. It goes on until they end or until it is cancelled."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def cancel(self) -> None:
        """Ends the call on both sides. Idempotent; harmless after the end."""
        ...


class GeneratorCalls(Protocol):
    """The methods of a generator deployment. To be used inside tasks of `detached`."""

    def generate(self, job: bytes) -> Call:
        """Has some replica work on `job`: one `Answer`, then nothing until the job has ended."""
        ...

    def channel(self, replica: str, ingress: str, after: int) -> Call:
        """Opens the channel of `ingress` to `replica`, which sends `ChannelMessage`s beyond number `after`.

        Raises, at once or from the call, `ReplicaGone` and whatever says that the replica can't be reached now.
        """
        ...

    async def control(self, replica: str, control: bytes) -> None:
        """Has `replica` apply a `Control`."""
        ...


def detached(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Runs `work` in a task that knows nothing of the request that it is started for."""
    return asyncio.get_running_loop().create_task(work, context=contextvars.Context())


def serve_options() -> dict[str, Any]:
    """Options of every handle, said outright: their defaults come from the process in which a handle was first made.

    What is sent is bytes, which need no more than plain pickle.
    """
    return {
        "_by_reference": not RAY_SERVE_USE_GRPC_BY_DEFAULT,
        "request_serialization": "pickle",
        "response_serialization": "pickle",
    }


class Connection(Protocol):
    """What is needed of `deployments.link_connection.LinkConnection`."""

    async def call(self, request: bytes) -> bytes: ...

    def follow(self, request: bytes) -> Call: ...


class Links(Protocol):
    """What is needed of `deployments.link_client.LinkClient`."""

    def to(self, replica: str) -> Connection: ...


class ServeGeneratorCalls:
    """`GeneratorCalls` over a deployment handle and the links to its replicas."""

    def __init__(self, handle: DeploymentHandle[Any], links: Links) -> None:
        self._generate = handle.options(method_name="generate", stream=True, **serve_options())
        self._links = links

    def generate(self, job: bytes) -> Call:
        return _ServeCall(_streaming(self._generate.remote(job)))

    def channel(self, replica: str, ingress: str, after: int) -> Call:
        return self._links.to(replica).follow(encode(OpenChannel(ingress, after)))

    async def control(self, replica: str, control: bytes) -> None:
        await self._links.to(replica).call(control)


def _streaming(response: object) -> DeploymentResponseGenerator[bytes]:
    """What Serve's types don't say: a handle with `stream=True` gives this."""
    assert isinstance(response, DeploymentResponseGenerator)
    return response


class _ServeCall:
    def __init__(self, response: DeploymentResponseGenerator[bytes]) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response

    def cancel(self) -> None:
        response = self._response
        response.cancel()
        if RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP or response._replica_result is not None:
            return
        # Serve overlooks a call that found its replica but was not looked at since: it would run to its end.
        assigned = response._replica_result_future
        if assigned.done() and not assigned.cancelled() and assigned.exception() is None:
            assigned.result().cancel()
