"""What a generator replica does for the ingress processes: takes jobs, sends their tokens on channels, obeys controls.

Knows the engine loop and nothing of Serve; `deployments.generator.deployment` makes a deployment of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from app.errors import ServiceError
from app.schema.tokens import Job, Steering, TokenBatch
from deployments.generator.channel import ChannelServer
from deployments.links.server import LinkServer
from deployments.messages.generation import Accepted, OpenChannel, decode_control, decode_wanted, encode
from deployments.messages.refusal import refusal

CALLS_BESIDE_JOBS = 1024
"""Calls on links that are done at once besides the jobs: a channel and a control of each ingress process."""
DRAIN_POLL_S = 0.1


class JobLoop(Protocol):
    """The part of `deployments.engine.loop.EngineLoop` that is needed here."""

    @property
    def healthy(self) -> bool: ...
    async def add(self, job: Job) -> None: ...
    def abort(self, ingress: str, key: int) -> None: ...
    def pause(self, ingress: str, key: int) -> None: ...
    def resume(self, ingress: str, key: int) -> None: ...
    def steer(self, ingress: str, key: int, steering: Steering) -> None: ...


class GeneratorServer:
    """One replica's service for `max_jobs` jobs at a time. Lives on the event loop on which it is made; to be closed.

    The engine loop delivers to `deliver` and is then handed over with `serve`. On `link` it can be reached.
    """

    def __init__(self, max_jobs: int) -> None:
        self.link = LinkServer(
            self.control, max_calls=max_jobs + CALLS_BESIDE_JOBS, streaming_handler=self._answers
        )
        self._loop: JobLoop | None = None
        self._channels = ChannelServer(lambda: self.healthy)
        self._beat = asyncio.get_running_loop().create_task(self._channels.beat())

    @property
    def healthy(self) -> bool:
        return self._loop is not None and self._loop.healthy

    @property
    def jobs(self) -> int:
        """Jobs whose `generate` call is open."""
        return self._channels.jobs

    def serve(self, loop: JobLoop) -> None:
        self._loop = loop

    def deliver(self, outputs: Mapping[str, list[TokenBatch]]) -> None:
        self._channels.deliver(outputs)

    async def generate(self, job: Job) -> AsyncGenerator[bytes, None]:
        """Yields one encoded `Answer`; after an acceptance, ends when the job has. Closing or cancelling it aborts the job."""
        assert self._loop is not None
        running = self._channels.register(job)
        try:
            try:
                await self._loop.add(job)
            except ServiceError as error:
                yield encode(refusal(error))
                return
            yield encode(Accepted())
            await running.ended()
        finally:
            self._loop.abort(job.ingress, job.key)
            self._channels.forget(job)

    async def channel(self, ingress: str, after: int) -> AsyncGenerator[bytes, None]:
        """Yields the encoded `ChannelMessage`s for `ingress` beyond number `after`. Ends when it opens another channel."""
        reader = self._channels.attach(ingress, after)
        try:
            while (message := await reader.next()) is not None:
                yield message
        finally:
            reader.close()

    async def control(self, control: bytes) -> bytes:
        """Applies an encoded `Control`. The answer has no content."""
        assert self._loop is not None
        decoded = decode_control(control)
        for operation in decoded.operations:
            if operation.steering is not None:
                self._loop.steer(decoded.ingress, operation.key, operation.steering)
            elif operation.action == "pause":
                self._loop.pause(decoded.ingress, operation.key)
            else:
                self._loop.resume(decoded.ingress, operation.key)
        return b""

    def _answers(self, request: bytes) -> AsyncGenerator[bytes, None]:
        wanted = decode_wanted(request)
        if isinstance(wanted, OpenChannel):
            return self.channel(wanted.ingress, wanted.after)
        return self.generate(wanted.job)

    async def drained(self) -> None:
        """Returns when no job is left and all is sent, or the engine will not do any more."""
        while self.healthy and not self._channels.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)

    async def close(self) -> None:
        """Breaks the links and stops the beats."""
        await self.link.close()
        self._beat.cancel()
        await asyncio.gather(self._beat, return_exceptions=True)
