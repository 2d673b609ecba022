"""Calls to the generator replicas: what the ingress needs of them, and how links do it.

What works for streams is kept out of Serve's request context: what is known there as the child of a request is cancelled with
it, whereas streams and channels outlive the connection that needed them first.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

from ray.serve._private.constants import RAY_SERVE_USE_GRPC_BY_DEFAULT

from app.schema.tokens import Job
from deployments.messages.generation import Generate, OpenChannel, encode


class Call(Protocol):
    """A call under way whose answers come one by one. It goes on until they end or until it is cancelled."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def cancel(self) -> None:
        """Ends the call on both sides. Idempotent; harmless after the end."""
        ...


class GeneratorCalls(Protocol):
    """What the replicas of a generator deployment do.

    All raise, at once or from the call, `ReplicaGone` and whatever says that the replica can't be reached now.
    """

    def generate(self, replica: str, job: Job) -> Call:
        """Has `replica` work on `job`: one `Answer`, then nothing until the job has ended."""
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


class Connection(Protocol):
    """What is needed of `deployments.links.connection.LinkConnection`."""

    async def call(self, request: bytes) -> bytes: ...

    def streaming_call(self, request: bytes, *, beats: bool = False) -> Call: ...


class Links(Protocol):
    """What is needed of `deployments.ingress.replica_links.ReplicaLinks`."""

    def to(self, replica: str) -> Connection: ...


class LinkedCalls:
    """`GeneratorCalls` over the links to the replicas."""

    def __init__(self, links: Links) -> None:
        self._links = links

    def generate(self, replica: str, job: Job) -> Call:
        return self._links.to(replica).streaming_call(encode(Generate(job)))

    def channel(self, replica: str, ingress: str, after: int) -> Call:
        return self._links.to(replica).streaming_call(encode(OpenChannel(ingress, after)), beats=True)

    async def control(self, replica: str, control: bytes) -> None:
        await self._links.to(replica).call(control)
