"""Calls to the generator replicas: what the ingress's side of the channel needs of them, and how Serve's handles do it.

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
        """Opens the channel of `ingress` to `replica`, which sends `ChannelMessage`s beyond number `after`."""
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


class ServeGeneratorCalls:
    """`GeneratorCalls` over a deployment handle. Bytes are sent as they are where Serve lets us (gRPC)."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        options = serve_options()
        self._generate = handle.options(method_name="generate", stream=True, **options)
        as_they_are = {**options, "response_serialization": "noop"}
        self._channel = handle.options(method_name="channel", stream=True, **as_they_are)
        self._control = handle.options(method_name="control", **options)

    def generate(self, job: bytes) -> Call:
        return _ServeCall(_streaming(self._generate.remote(job)))

    def channel(self, replica: str, ingress: str, after: int) -> Call:
        return _ServeCall(_streaming(self._channel.options(session_id=replica).remote(ingress, after)))

    async def control(self, replica: str, control: bytes) -> None:
        await self._control.options(session_id=replica).remote(control)


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
