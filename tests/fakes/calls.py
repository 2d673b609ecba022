"""Calls to generator replicas that live in the test's own event loop, and the ways in which they break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from app.schema.tokens import Job
from deployments.generator.server import GeneratorServer
from deployments.ingress.replicas import ReplicaDirectory, ReplicaGone
from deployments.links.link import LinkBroken
from tests.fakes.job_loop import FakeJobLoop


class Replica:
    """A generator replica of the test. A hung one keeps its calls open and says nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server = GeneratorServer(max_jobs=8)
        self.engine = FakeJobLoop(self.server)
        self.calls: list[FakeCall] = []
        self.hangs = False


class FakeCall:
    """Implements `deployments.ingress.calls.Call` over an async generator of the replica."""

    def __init__(self, replica: Replica, kind: str, answers: AsyncIterator[bytes]) -> None:
        self.kind = kind
        self.items: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self._replica = replica
        self._task = asyncio.get_running_loop().create_task(self._run(answers))
        replica.calls.append(self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (item := await self.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

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


class FakeCalls:
    """Implements `deployments.ingress.calls.GeneratorCalls`.

    Replicas in `unlinked` are listed and can't be called yet; a job breaks the link to those in `breaking`.
    """

    def __init__(self) -> None:
        self.directory = ReplicaDirectory()
        self.replicas: dict[str, Replica] = {}
        self.control_failures = 0
        self.control_calls = 0
        self.unlinked: set[str] = set()
        self.breaking: set[str] = set()

    def add(self, name: str) -> Replica:
        """Starts a replica and lists it."""
        replica = self.replicas[name] = Replica(name)
        self.directory.publish(self.replicas)
        return replica

    def kill(self, name: str, error: BaseException, *, listed: bool = False) -> None:
        """Breaks every call of a replica, which is not there any more."""
        replica = self.replicas.pop(name)
        for call in list(replica.calls):
            call.fail(error)
        if not listed:
            self.directory.publish(self.replicas)

    def generate(self, replica: str, job: Job) -> FakeCall:
        found = self._find(replica)
        if replica in self.breaking:
            raise LinkBroken("it was there a moment ago")
        return FakeCall(found, "generate", found.server.generate(job))

    def channel(self, replica: str, ingress: str, after: int) -> FakeCall:
        found = self._find(replica)
        return FakeCall(found, "channel", found.server.channel(ingress, after))

    async def control(self, replica: str, control: bytes) -> None:
        self.control_calls += 1
        if self.control_failures:
            self.control_failures -= 1
            raise ConnectionError("no way")
        await self._find(replica).server.control(control)

    async def close(self) -> None:
        """Ends every call that is still open."""
        for replica in self.replicas.values():
            for call in list(replica.calls):
                call.cancel()
            await replica.server.close()
        await asyncio.sleep(0)

    def _find(self, replica: str) -> Replica:
        if replica not in self.replicas:
            raise ReplicaGone(replica)
        if replica in self.unlinked:
            raise LinkBroken("there is no link")
        return self.replicas[replica]
