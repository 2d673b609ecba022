"""The service of a generator replica for the ingress processes: takes jobs, sends their tokens on channels, applies controls.

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
from deployments.messages.call import Done, ErrorReply, encode
from deployments.messages.generation import Greeting, OpenChannel, decode_control, decode_streaming_request

CALLS_BESIDE_JOBS = 1024
"""Calls on links that run at once besides the jobs: a channel and a control of each ingress process."""
DRAIN_POLL_S = 0.1


class JobLoop(Protocol):
    """The part of `deployments.engine.loop.EngineLoop` that is needed here."""

    @property
    def healthy(self) -> bool: ...
    @property
    def deterministic(self) -> bool: ...
    def prepare(self, job: Job) -> None: ...
    def add(self, job: Job) -> None: ...
    def abort(self, ingress: str, key: int) -> None: ...
    def end(self, ingress: str, key: int, choice: int) -> None: ...
    def pause(self, ingress: str, key: int) -> None: ...
    def resume(self, ingress: str, key: int) -> None: ...
    def steer(self, ingress: str, key: int, steering: Steering) -> None: ...


class GeneratorServer:
    """One replica's service for at most `max_jobs` jobs at a time. Lives on the event loop on which it is made; to be closed.

    The engine loop delivers to `deliver` and is then passed to `serve`. `link` is where ingress processes connect.
    """

    def __init__(self, max_jobs: int) -> None:
        self.link = LinkServer(
            self.control, max_calls=max_jobs + CALLS_BESIDE_JOBS, streaming_handler=self.stream
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

    def stream(self, data: bytes) -> AsyncGenerator[bytes, None]:
        """The items that answer an encoded `OpenChannel` or `Generate`."""
        request = decode_streaming_request(data)
        if isinstance(request, OpenChannel):
            return self.channel(request.ingress, request.after)
        return self.generate(request.job)

    async def generate(self, job: Job) -> AsyncGenerator[bytes, None]:
        """Yields one encoded reply; after an acceptance, ends when the job has. Closing or cancelling it aborts the job."""
        assert self._loop is not None
        try:
            running = self._channels.register(job)
        except ServiceError as error:
            yield encode(ErrorReply.of(error))
            return
        try:
            try:
                if job.sampling.constraint is not None:
                    await asyncio.to_thread(self._loop.prepare, job)
                self._loop.add(job)
            except ServiceError as error:
                yield encode(ErrorReply.of(error))
                return
            yield encode(Done(None))
            await running.ended()
        finally:
            self._loop.abort(job.ingress, job.key)
            self._channels.forget(job)

    async def channel(self, ingress: str, after: int) -> AsyncGenerator[bytes, None]:
        """Yields the encoded `Greeting`, then the `ChannelMessage`s for `ingress` after number `after`.

        Ends when the ingress opens another channel.
        """
        assert self._loop is not None
        reader = self._channels.attach(ingress, after)
        try:
            yield encode(Greeting(self._loop.deterministic))
            while (message := await reader.next()) is not None:
                yield message
        finally:
            reader.close()

    async def control(self, data: bytes) -> bytes:
        """Applies an encoded `Control`."""
        assert self._loop is not None
        control = decode_control(data)
        for operation in control.operations:
            if operation.steering is not None:
                self._loop.steer(control.ingress, operation.key, operation.steering)
            elif operation.action == "end":
                self._loop.end(control.ingress, operation.key, operation.choice)
            elif operation.action == "pause":
                self._loop.pause(control.ingress, operation.key)
            else:
                self._loop.resume(control.ingress, operation.key)
        return encode(Done(None))

    async def drained(self) -> None:
        """Returns when no job is left and everything is sent, or the engine no longer works."""
        while self.healthy and not self._channels.is_idle:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)

    async def close(self) -> None:
        """Breaks the links and stops the beats."""
        await self.link.close()
        self._beat.cancel()
        await asyncio.gather(self._beat, return_exceptions=True)
