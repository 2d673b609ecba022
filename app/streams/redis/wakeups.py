"""Wake-ups from Redis: one subscription for a process wakes whoever waits in it, by name.

A message may be lost, with its connection for instance, so nobody may rely on being woken. When the subscription comes back,
everybody is woken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

RETRY_S = 0.5
CANCEL_AGAIN_S = 0.1

_decode_names = msgspec.msgpack.Decoder(list[str]).decode


class Wakeups:
    """Listens to `channel`, from the first waiter until `close`."""

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis = redis
        self._channel = channel
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._listening: asyncio.Task[None] | None = None

    @contextmanager
    def waiter(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set when `name` is woken, from now on."""
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        woken = asyncio.Event()
        waiters = self._waiters.setdefault(name, set())
        waiters.add(woken)
        try:
            yield woken
        finally:
            waiters.remove(woken)
            if not waiters and self._waiters.get(name) is waiters:
                del self._waiters[name]

    async def close(self) -> None:
        """Stops listening and wakes everybody."""
        while self._listening is not None:
            # Once is not always enough: while it connects, the client may swallow a cancellation.
            self._listening.cancel()
            await asyncio.wait([self._listening], timeout=CANCEL_AGAIN_S)
            if self._listening.done():
                self._listening = None
        self._wake_all()

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (RedisError, OSError) as error:
                logger.warning("lost the subscription to the stream store: %s", error)
            except Exception:
                logger.exception("the subscription to the stream store broke")
            self._wake_all()
            await asyncio.sleep(RETRY_S)

    async def _listen_once(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(self._channel)
            async for message in subscription.listen():
                if message["type"] == "subscribe":
                    # The client subscribes anew by itself after a lost connection; messages may be missing.
                    self._wake_all()
                elif message["type"] == "message":
                    for name in _decode_names(message["data"]):
                        self._wake(name)

    def _wake(self, name: str) -> None:
        for woken in self._waiters.get(name, ()):
            woken.set()

    def _wake_all(self) -> None:
        for name in self._waiters:
            self._wake(name)
