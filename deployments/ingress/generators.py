"""The generators of one model as the ingress sees them: implements `app.ports.Generator` over links and channels.

A job goes to the replica with the fewest choices of this process, and to the next one if that refuses it. Its call stays open
until the job ends; its tokens come on the channel of the replica. The sink is registered before the call is made, because tokens
may overtake the acceptance. Leaving a job, or cancelling at any point, cancels its call, which frees its place.
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
from app.schema.tokens import Job, TokenBatch
from deployments.ingress.attempt import Attempt
from deployments.ingress.call_failure import RETRY_AFTER_S
from deployments.ingress.channel import ChannelClient
from deployments.ingress.cold_start import ColdStart
from deployments.ingress.controls import ControlSender
from deployments.ingress.replica_links import ReplicaLinks
from deployments.ingress.replicas import ReplicaDirectory

logger = logging.getLogger(__name__)

CHANNEL_POLL_S = 0.02


class GeneratorClient:
    """The generator deployment of one model. Lives on one event loop: `start` it there, and `close` it.

    A job waits up to `accept_timeout_s` for an open channel, and as long again for a replica to accept it. A replica whose
    channel has no message for `silence_timeout_s` is lost. With a `cold_start` there may be no replica while nobody asks.
    """

    def __init__(
        self,
        links: ReplicaLinks,
        directory: ReplicaDirectory,
        *,
        ingress: str,
        sequences_per_replica: int,
        accept_timeout_s: float,
        silence_timeout_s: float,
        cold_start: ColdStart | None = None,
    ) -> None:
        self._cold_start = cold_start
        self._links = links
        self._directory = directory
        self._ingress = ingress
        self._sequences_per_replica = sequences_per_replica
        self._accept_timeout_s = accept_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._controls = ControlSender(links, ingress)
        self._channels: dict[str, ChannelClient] = {}
        self._attempts: dict[int, Attempt] = {}
        self._feeds: dict[int, Callable[[TokenBatch], None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.deterministic = False

    @property
    def capacity(self) -> int:
        """See `app.ports.Generator.capacity`."""
        return (1 if self.asleep else len(self._directory.answering)) * self._sequences_per_replica

    @property
    def asleep(self) -> bool:
        """See `app.ports.Generator.asleep`."""
        return self._cold_start is not None and not self._directory.replicas

    @property
    def jobs(self) -> int:
        return len(self._attempts)

    @property
    def channels(self) -> frozenset[str]:
        return frozenset(self._channels)

    def start(self) -> None:
        """Opens channels to the replicas that are listed, now and later."""
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
            self._lose_replica(channel.replica)
            channel.close()
        self._controls.close()
        for channel in channels:
            await channel.closed()

    async def wake(self) -> None:
        """See `app.ports.Generator.wake`."""
        assert self._cold_start is not None
        # Replicas that drain are not listed any more.
        await self._cold_start.wait(
            lambda: any(
                channel.is_open and channel.replica in self._directory.replicas
                for channel in self._channels.values()
            )
        )

    @asynccontextmanager
    async def open(self, job: Job, sink: TokenSink) -> AsyncIterator[Attempt]:
        """See `app.ports.Generator.open`."""
        replicas = await self._candidates()
        self._feeds[job.key] = sink.feed
        try:
            for replica in replicas:
                attempt = self._attempts[job.key] = Attempt(
                    job, sink, replica, self._links, self._controls, on_lost=self._lose
                )
                try:
                    await attempt.accepted(self._accept_timeout_s)
                    break
                except (Overloaded, GeneratorUnavailable) as error:
                    # A replica that may have the job is the last one: its tokens could still come, and it may be dead of it.
                    if isinstance(error, GeneratorUnavailable) and not attempt.refused:
                        error.lost_replica = replica
                    if not attempt.refused or replica == replicas[-1]:
                        raise
            channel = self._channels.get(attempt.replica)
            if channel is None:
                gone = GeneratorUnavailable(
                    "The replica that accepted the job is gone. Try again.", retry_after_s=RETRY_AFTER_S
                )
                gone.lost_replica = attempt.replica
                raise gone
            attempt.deterministic = bool(channel.deterministic)
            yield attempt
        finally:
            self._feeds.pop(job.key, None)
            attempt = self._attempts.pop(job.key)
            attempt.close()
            self._close_if_retired(attempt.replica)

    async def _candidates(self) -> list[str]:
        """The replicas that can take a job, the one with the fewest choices of this process first. Waits for an open channel."""
        deadline_s = asyncio.get_running_loop().time() + self._accept_timeout_s
        while True:
            usable = {replica for replica, channel in self._channels.items() if channel.is_open}
            usable &= self._directory.answering
            if usable:
                break
            if not self._directory.answering or asyncio.get_running_loop().time() > deadline_s:
                raise GeneratorUnavailable(
                    "No replica of the model answers. Try again later.", retry_after_s=RETRY_AFTER_S
                )
            await asyncio.sleep(CHANNEL_POLL_S)
        if len(usable) == 1:
            return list(usable)
        load: Counter[str] = Counter()
        for attempt in self._attempts.values():
            load[attempt.replica] += len(attempt.open_choices)
        # Equals in random order: other ingress processes choose, too.
        return sorted(usable, key=lambda replica: (load[replica], random.random()))

    # Tokens.

    def _dispatch(self, batches: list[TokenBatch]) -> None:
        """Passes the batches of one message to their sinks. A sink that raises is dropped; the others go on."""
        feeds = self._feeds
        for batch in batches:
            feed = feeds.get(batch.key)
            if feed is None:
                continue
            if batch.finish is not None:
                self._attempts[batch.key].open_choices.discard(batch.choice)
            try:
                feed(batch)
            except Exception:
                logger.exception("A stream could not take its tokens")
                if (attempt := self._attempts.get(batch.key)) is not None:
                    self._lose(attempt)

    def _lose(self, attempt: Attempt) -> None:
        """Tells the sink of an attempt that no more tokens will come, unless it has them all."""
        if self._feeds.pop(attempt.key, None) is None or not attempt.open_choices:
            return
        attempt.close()
        try:
            attempt.sink.lost()
        except Exception:
            logger.exception("A stream could not take the loss of its replica")

    def _lose_replica(self, replica: str) -> None:
        for attempt in list(self._attempts.values()):
            if attempt.replica == replica and attempt.is_accepted:
                self._lose(attempt)

    # Replicas.

    def _on_replicas(self, replicas: frozenset[str]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._follow_replicas)

    def _follow_replicas(self) -> None:
        """Opens a channel to each new replica, and closes those that are no longer needed."""
        if self._loop is None:
            return
        for replica in self._directory.replicas - self._channels.keys():
            self._channels[replica] = ChannelClient(
                replica,
                self._ingress,
                self._links,
                self._directory,
                silence_timeout_s=self._silence_timeout_s,
                dispatch=self._dispatch,
                on_lost=self._lose_replica,
                on_greeting=self._on_greeting,
            )
        for replica, channel in list(self._channels.items()):
            channel.replicas_changed()
            self._close_if_retired(replica)

    def _on_greeting(self) -> None:
        known = [channel.deterministic for channel in self._channels.values()]
        self.deterministic = all(said for said in known if said is not None)

    def _close_if_retired(self, replica: str) -> None:
        """The channel to a draining replica closes when the last job of this process there has ended."""
        if replica in self._directory.replicas:
            return
        if any(attempt.replica == replica for attempt in self._attempts.values()):
            return
        channel = self._channels.pop(replica, None)
        if channel is not None:
            channel.close()
