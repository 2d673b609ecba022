"""Links to generator replicas that live in the test's own event loop, and the ways in which they break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from deployments.generator.server import GeneratorServer
from deployments.ingress.replica_links import ReplicaLinks
from deployments.ingress.replicas import ReplicaDirectory, ReplicaGone
from deployments.links.address import LinkAddress
from deployments.links.connection import LinkConnection, StreamingCall
from deployments.links.link import LinkBroken
from deployments.messages.generation import Generate, decode_streaming_request
from tests.fakes.job_loop import FakeJobLoop


class Replica:
    """A generator replica of the test. A hung one keeps its calls open and sends nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server = GeneratorServer(max_jobs=8)
        self.engine = FakeJobLoop(self.server)
        self.calls: list[FakeStreamingCall] = []
        self.hangs = False


class FakeStreamingCall(StreamingCall):
    """A streaming call over an async generator of the replica."""

    def __init__(self, replica: Replica, kind: str, answers: AsyncIterator[bytes]) -> None:
        self.kind = kind
        self.items: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._replica = replica
        self._task = asyncio.get_running_loop().create_task(self._run(answers))
        replica.calls.append(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        item = await self.items.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def cancel(self) -> None:
        """Ends the call on both sides."""
        self._task.cancel()
        self.items.put_nowait(asyncio.CancelledError())

    def fail(self, error: BaseException) -> None:
        """Breaks the call: the caller gets `error`, the replica a cancellation."""
        self._task.cancel()
        self.items.put_nowait(error)

    async def _run(self, answers: AsyncIterator[bytes]) -> None:
        try:
            async for answer in answers:
                if not self._replica.hangs:
                    self.items.put_nowait(answer)
            self.items.put_nowait(None)
        finally:
            self._replica.calls.remove(self)


class FakeConnection(LinkConnection):
    """A connection to one replica."""

    def __init__(self, links: FakeLinks, replica: Replica) -> None:
        self._links = links
        self._replica = replica

    async def call(self, request: bytes) -> bytes:
        self._links.control_calls += 1
        if self._links.control_failures:
            self._links.control_failures -= 1
            raise ConnectionError("no way")
        return await self._replica.server.control(request)

    def streaming_call(self, request: bytes, *, beats: bool = False) -> FakeStreamingCall:
        is_job = isinstance(decode_streaming_request(request), Generate)
        assert beats != is_job
        if is_job and self._replica.name in self._links.breaking:
            raise LinkBroken("it was there a moment ago")
        kind = "generate" if is_job else "channel"
        return FakeStreamingCall(self._replica, kind, self._replica.server.stream(request))


class FakeLinks(ReplicaLinks):
    """The links of an ingress process.

    Replicas in `unlinked` are listed and can't be called yet; a job breaks the link to those in `breaking`.
    """

    def __init__(self) -> None:
        super().__init__(ReplicaDirectory(), self._find_nothing)
        self.replicas: dict[str, Replica] = {}
        self.control_failures = 0
        self.control_calls = 0
        self.unlinked: set[str] = set()
        self.breaking: set[str] = set()

    @property
    def directory(self) -> ReplicaDirectory:
        return self._directory

    def add(self, name: str, *, deterministic: bool = True) -> Replica:
        """Starts a replica and lists it."""
        replica = self.replicas[name] = Replica(name)
        replica.engine.deterministic = deterministic
        self.directory.publish(self.replicas)
        return replica

    def kill(self, name: str, error: BaseException, *, listed: bool = False) -> None:
        """Breaks every call of a replica, and removes it."""
        replica = self.replicas.pop(name)
        for call in list(replica.calls):
            call.fail(error)
        if not listed:
            self.directory.publish(self.replicas)

    def to(self, replica: str) -> FakeConnection:
        if replica not in self.replicas:
            raise ReplicaGone(replica)
        if replica in self.unlinked:
            raise LinkBroken("there is no link")
        return FakeConnection(self, self.replicas[replica])

    async def close(self) -> None:
        """Ends every call that is still open."""
        for replica in self.replicas.values():
            for call in list(replica.calls):
                call.cancel()
            await replica.server.close()
        await asyncio.sleep(0)

    async def _find_nothing(self, replica: str) -> LinkAddress:
        raise ReplicaGone(replica)
