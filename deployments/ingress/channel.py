"""The ingress's end of the channel to one generator replica: keeps it open, and says when the replica is lost.

Messages are handed on in order, each once. A channel that breaks is opened again from the last message received. The replica is
lost to its jobs when it sends nothing for the stall timeout, when Serve no longer lists it and the channel is broken, or when
messages are missing. A replica that is only silent may come back; its channel is tried again for as long as it is wanted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from app.schema.tokens import TokenBatch
from deployments.ingress.calls import Call, GeneratorCalls, detached
from deployments.ingress.replicas import ReplicaDirectory
from deployments.messages.generation import decode_message

logger = logging.getLogger(__name__)

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0
WATCHES_PER_TIMEOUT = 10


class ChannelClient:
    """The channel to `replica`. `dispatch` gets the batches of each message, `on_lost` is called once for each loss."""

    def __init__(
        self,
        replica: str,
        ingress: str,
        calls: GeneratorCalls,
        directory: ReplicaDirectory,
        *,
        stall_timeout_s: float,
        dispatch: Callable[[list[TokenBatch]], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self.replica = replica
        self.is_open = False
        self.messages = 0
        self._ingress = ingress
        self._calls = calls
        self._directory = directory
        self._stall_timeout_s = stall_timeout_s
        self._dispatch = dispatch
        self._on_lost = on_lost
        self._number = 0
        self._heard_s = asyncio.get_running_loop().time()
        self._silent = False
        self._closed = False
        self._call: Call | None = None
        self._changed = asyncio.Event()
        self._tasks = [detached(self._run()), detached(self._watch())]

    def replicas_changed(self) -> None:
        """To be called when the directory has changed: a broken channel to a replica that is gone is given up."""
        self._changed.set()
        if not self.is_open and self._call is not None and self.replica not in self._directory.replicas:
            self._call.cancel()  # it may be one of those that never say anything any more

    def close(self) -> None:
        """Closes the channel. Nothing is dispatched and nothing is lost after that. Idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        self._directory.mark(self.replica, silent=False)

    async def closed(self) -> None:
        """Returns when the tasks of a closed channel have ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            before = self.messages
            await self._attend()
            if self.messages > before or self._call is None:
                retry_s = FIRST_RETRY_S  # without a call it was only the link that is not there yet
            if self.replica not in self._directory.replicas:
                self._lose()
            self._changed.clear()
            try:
                async with asyncio.timeout(retry_s):
                    await self._changed.wait()
            except TimeoutError:
                retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _attend(self) -> None:
        """Opens the channel and follows it until it breaks."""
        self._call = None
        try:
            call = self._call = self._calls.channel(self.replica, self._ingress, self._number)
            async for message in call:
                self._receive(message)
        except asyncio.CancelledError:
            # Our own cancellation of the call is this, too.
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
        self._lose()

    def _lose(self) -> None:
        self._on_lost(self.replica)

    async def _watch(self) -> None:
        """Notices silence. Time in which this process itself stood still doesn't count."""
        loop = asyncio.get_running_loop()
        interval_s = self._stall_timeout_s / WATCHES_PER_TIMEOUT
        while True:
            slept_from_s = loop.time()
            await asyncio.sleep(interval_s)
            late_s = loop.time() - slept_from_s - interval_s
            if late_s > interval_s:
                self._heard_s += late_s
            if loop.time() - self._heard_s > self._stall_timeout_s:
                self._fall_silent()

    def _fall_silent(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        if not self._silent:
            logger.warning("The generator replica %s is silent", self.replica)
            self._silent = True
            self._directory.mark(self.replica, silent=True)
        self._lose()
        if self._call is not None:
            self._call.cancel()  # ends `_attend`, which opens the channel again
