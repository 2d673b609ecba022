"""The generators of one model as the ingress sees them: implements `app.ports.Generator` over calls and channels.

A job is started by a `generate` call that stays open until it ends; its tokens come on the channel of the replica that took it.
It goes to the replica that has the fewest of ours, and to the next one if that does not take it. The sink is known before the
call is made, because tokens may overtake the acceptance. Leaving a job cancels its call, which frees its place; so does
cancelling at any point.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.errors import GeneratorUnavailable, Overloaded
from app.ports import TokenSink
from app.schema.tokens import Job, Steering, TokenBatch
from deployments.ingress.attempt import GenerateCall
from deployments.ingress.calls import GeneratorCalls
from deployments.ingress.channel import ChannelClient
from deployments.ingress.controls import ControlSender
from deployments.ingress.faults import RETRY_AFTER_S
from deployments.ingress.replicas import ReplicaDirectory

logger = logging.getLogger(__name__)

CHANNEL_POLL_S = 0.02


class RemoteJob:
    """A job of this process, from before its call is made until it is left. Implements `app.ports.Generation`."""

    def __init__(self, job: Job, sink: TokenSink, control: ControlSender) -> None:
        self.key = job.key
        self.job = job
        self.sink = sink
        self.call: GenerateCall | None = None
        self.replica = ""
        self.choices_left = job.n - sum(job.finished)
        self._control = control

    def close(self) -> None:
        """Ends the call, if there is one, and with it what is left of the job."""
        if self.call is not None:
            self.call.close()

    def pause(self) -> None:
        self._control.send(self.replica, self.key, "pause")

    def resume(self) -> None:
        self._control.send(self.replica, self.key, "resume")

    def steer(self, steering: Steering) -> None:
        self._control.steer(self.replica, self.key, steering)


class GeneratorClient:
    """The generator deployment of one model. Lives on one event loop; `start` it there, and `close` it."""

    def __init__(
        self,
        calls: GeneratorCalls,
        directory: ReplicaDirectory,
        *,
        ingress: str,
        sequences_per_replica: int,
        stall_timeout_s: float,
    ) -> None:
        self._calls = calls
        self._directory = directory
        self._ingress = ingress
        self._sequences_per_replica = sequences_per_replica
        self._stall_timeout_s = stall_timeout_s
        self._control = ControlSender(calls, ingress)
        self._channels: dict[str, ChannelClient] = {}
        self._jobs: dict[int, RemoteJob] = {}
        self._feeds: dict[int, Callable[[TokenBatch], None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def capacity(self) -> int:
        return len(self._directory.answering) * self._sequences_per_replica

    @property
    def jobs(self) -> int:
        return len(self._jobs)

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self._channels)

    def start(self) -> None:
        """Opens channels to the replicas that are known, and to others as they come."""
        self._loop = asyncio.get_running_loop()
        self._directory.subscribe(self._on_replicas)
        self._follow_replicas()

    async def close(self) -> None:
        """Closes the channels. Jobs that are still open are lost."""
        self._directory.unsubscribe(self._on_replicas)
        self._loop = None
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            self._lose(channel.replica)
            channel.close()
        self._control.close()
        for channel in channels:
            await channel.closed()

    @asynccontextmanager
    async def open(self, job: Job, sink: TokenSink) -> AsyncIterator[RemoteJob]:
        """See `app.ports.Generator.open`."""
        replicas = await self._usable()
        running = RemoteJob(job, sink, self._control)
        self._jobs[job.key] = running
        self._feeds[job.key] = sink.feed
        try:
            await self._place(running, replicas)
            yield running
        finally:
            self._forget(running)
            running.close()

    async def _usable(self) -> list[str]:
        """The replicas that can take a job, the one with the fewest choices of ours first. Waits for a channel to be open."""
        deadline_s = asyncio.get_running_loop().time() + self._stall_timeout_s
        while not (usable := self._directory.answering & self._open_channels()):
            if not self._directory.answering or asyncio.get_running_loop().time() > deadline_s:
                raise GeneratorUnavailable(
                    "No replica of the model answers. Try again later.", retry_after_s=RETRY_AFTER_S
                )
            await asyncio.sleep(CHANNEL_POLL_S)
        if len(usable) == 1:
            return list(usable)
        load: Counter[str] = Counter()
        for running in self._jobs.values():
            if running.call is not None:
                load[running.call.replica] += running.choices_left
        # Among equals by chance: other ingress processes choose, too.
        return sorted(usable, key=lambda replica: (load[replica], random.random()))

    def _open_channels(self) -> set[str]:
        return {replica for replica, channel in self._channels.items() if channel.is_open}

    async def _place(self, running: RemoteJob, replicas: list[str]) -> None:
        """Has the first of `replicas` that will take the job. Raises the `ServiceError` that prevents it.

        One that may have taken it is the last that is tried: its tokens could come.
        """
        for replica in replicas:
            call = running.call = GenerateCall(
                self._calls, replica, running.job, accept_timeout_s=self._stall_timeout_s
            )
            try:
                await call.accepted()
            except (Overloaded, GeneratorUnavailable):
                if not call.refused or replica == replicas[-1]:
                    raise
            else:
                self._accept(running, call)
                return

    def _accept(self, running: RemoteJob, call: GenerateCall) -> None:
        if call.replica not in self._channels:
            raise GeneratorUnavailable(
                "The replica that took the job is gone. Try again.", retry_after_s=RETRY_AFTER_S
            )
        running.replica = call.replica
        call.on_broken(lambda: self._lose_job(running))

    # Tokens.

    def _dispatch(self, batches: list[TokenBatch]) -> None:
        """Hands the batches of one message to their sinks. A sink that raises is dropped; the others go on."""
        feeds = self._feeds
        for batch in batches:
            feed = feeds.get(batch.key)
            if feed is None:
                continue
            if batch.finish is not None:
                self._jobs[batch.key].choices_left -= 1
            try:
                feed(batch)
            except Exception:
                logger.exception("A stream could not take its tokens")
                self._lose_job(self._jobs.get(batch.key))

    def _lose_job(self, running: RemoteJob | None) -> None:
        """Tells the sink of a job that nothing more will come, unless all has come."""
        if running is None or self._feeds.pop(running.key, None) is None or running.choices_left <= 0:
            return
        running.close()
        try:
            running.sink.lost()
        except Exception:
            logger.exception("A stream could not take the loss of its replica")

    def _lose(self, replica: str) -> None:
        for running in [running for running in self._jobs.values() if running.replica == replica]:
            self._lose_job(running)

    def _forget(self, running: RemoteJob) -> None:
        self._jobs.pop(running.key, None)
        self._feeds.pop(running.key, None)
        channel = self._channels.get(running.call.replica) if running.call is not None else None
        if channel is not None:
            self._close_if_retired(channel)

    # Replicas.

    def _on_replicas(self, replicas: frozenset[str]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._follow_replicas)

    def _follow_replicas(self) -> None:
        if self._loop is None:
            return
        for replica in self._directory.replicas - self._channels.keys():
            self._open_channel(replica)
        for channel in list(self._channels.values()):
            channel.replicas_changed()
            self._close_if_retired(channel)

    def _open_channel(self, replica: str) -> None:
        self._channels[replica] = ChannelClient(
            replica,
            self._ingress,
            self._calls,
            self._directory,
            stall_timeout_s=self._stall_timeout_s,
            dispatch=self._dispatch,
            on_lost=self._lose,
        )

    def _close_if_retired(self, channel: ChannelClient) -> None:
        """The channel to a replica that drains closes when the last of our jobs there has ended."""
        if channel.replica in self._directory.replicas:
            return
        calls = (running.call for running in self._jobs.values())
        if any(call is not None and call.replica == channel.replica for call in calls):
            return
        if self._channels.pop(channel.replica, None) is not None:
            channel.close()
