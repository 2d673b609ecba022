"""The ingress's end of the channel to one generator replica: keeps it open, and reports when the replica is lost.

Messages are passed on in order, each once. A channel that breaks is opened again after the last message received. The replica is
lost to its jobs when it sends nothing for the silence timeout, when Serve no longer lists it and the channel is broken, or when
messages are missing. A silent replica may come back: its channel is opened again until it is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from app.backoff import Backoff
from app.schema.tokens import TokenBatch
from deployments.ingress.detached_task import detached_task
from deployments.ingress.replica_links import ReplicaLinks
from deployments.ingress.replicas import ReplicaDirectory
from deployments.links.connection import StreamingCall
from deployments.messages.call import encode
from deployments.messages.generation import OpenChannel, decode_greeting, decode_message

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0
WATCHES_PER_TIMEOUT = 10


class ChannelClient:
    """The channel to `replica`. `dispatch` gets the batches of each message, `on_lost` is called once for each loss.

    `deterministic` is what the replica says of itself, None before it has answered; then `on_greeting` is called.
    """

    def __init__(
        self,
        replica: str,
        ingress: str,
        links: ReplicaLinks,
        directory: ReplicaDirectory,
        *,
        silence_timeout_s: float,
        dispatch: Callable[[list[TokenBatch]], None],
        on_lost: Callable[[str], None],
        on_greeting: Callable[[], None],
    ) -> None:
        self.replica = replica
        self.is_open = False
        self.messages = 0
        self.deterministic: bool | None = None
        self._ingress = ingress
        self._links = links
        self._directory = directory
        self._silence_timeout_s = silence_timeout_s
        self._dispatch = dispatch
        self._on_lost = on_lost
        self._on_greeting = on_greeting
        self._number = 0
        self._heard_s = asyncio.get_running_loop().time()
        self._silent = False
        self._closed = False
        self._call: StreamingCall | None = None
        self._changed = asyncio.Event()
        self._tasks = [detached_task(self._run()), detached_task(self._watch())]

    def replicas_changed(self) -> None:
        """Call it when the directory has changed: a broken channel to a replica that is gone is given up."""
        self._changed.set()
        if not self.is_open and self._call is not None and self.replica not in self._directory.replicas:
            self._call.cancel()  # the call to a dead machine may never end by itself

    def close(self) -> None:
        """Closes the channel. Afterwards nothing is dispatched and no loss reported. Idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        self._directory.mark(self.replica, silent=False)

    async def closed(self) -> None:
        """Returns when the tasks of a closed channel have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        while True:
            before = self.messages
            await self._follow()
            if self.messages > before or self._call is None:
                backoff.reset()  # without a call the link is missing, which has its own backoff
            if self.replica not in self._directory.replicas:
                self._on_lost(self.replica)
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.next_s()):
                    await self._changed.wait()

    async def _follow(self) -> None:
        """Opens the channel and receives its messages until it breaks."""
        self._call = None
        try:
            request = OpenChannel(self._ingress, self._number)
            call = self._call = self._links.to(self.replica).streaming_call(encode(request), beats=True)
            self.deterministic = decode_greeting(await anext(call)).deterministic
            self._on_greeting()
            async for message in call:
                self._receive(message)
        except asyncio.CancelledError:
            # The cancellation of the call by this class arrives here, too.
            if self._closed:
                raise
        except Exception as error:
            logger.info("The channel to %s broke: %s", self.replica, type(error).__name__)
        finally:
            self.is_open = False
            if self._call is not None:
                self._call.cancel()

    def _receive(self, data: bytes) -> None:
        message = decode_message(data)
        self.messages += 1
        self.is_open = True
        self._heard_s = asyncio.get_running_loop().time()
        if self._silent:
            self._silent = False
            self._directory.mark(self.replica, silent=False)
        if not message.batches:
            if message.number > self._number:
                self._skip_to(message.number)
            return
        if message.number <= self._number:
            return
        if message.number > self._number + 1:
            self._skip_to(message.number - 1)
        self._number = message.number
        self._dispatch(message.batches)

    def _skip_to(self, number: int) -> None:
        logger.error("The channel to %s lost messages %d to %d", self.replica, self._number + 1, number)
        self._number = number
        self._on_lost(self.replica)

    async def _watch(self) -> None:
        """Detects silence. Time during which this process itself stood still doesn't count."""
        loop = asyncio.get_running_loop()
        interval_s = self._silence_timeout_s / WATCHES_PER_TIMEOUT
        while True:
            slept_from_s = loop.time()
            await asyncio.sleep(interval_s)
            late_s = loop.time() - slept_from_s - interval_s
            if late_s > interval_s:
                self._heard_s += late_s
            if loop.time() - self._heard_s <= self._silence_timeout_s:
                continue
            self._heard_s = loop.time()
            if not self._silent:
                logger.warning(
                    "The generator replica %s has been silent for %g s", self.replica, self._silence_timeout_s
                )
                self._silent = True
                self._directory.mark(self.replica, silent=True)
            self._on_lost(self.replica)
            if self._call is not None:
                self._call.cancel()  # ends `_follow`, and `_run` opens the channel again
