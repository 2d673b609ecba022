"""Wake-ups from Redis: one subscription for a process wakes its coroutines, by name.

A message may be lost, for instance with its connection, so no waiter may rely on being woken. When the subscription comes back,
all waiters are woken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.backoff import Backoff
from app.wakeup import Wakeup

logger = logging.getLogger(__name__)

RETRY_S = 0.5
CANCEL_AGAIN_S = 0.1

_decode_names = msgspec.msgpack.Decoder(list[str]).decode


class Wakeups:
    """Listens to `channel`, from the first waiter until `close`."""

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis = redis
        self._channel = channel
        self._waiters: dict[str, set[Wakeup]] = {}
        self._listening: asyncio.Task[None] | None = None

    @contextmanager
    def waiter(self, name: str) -> Iterator[Wakeup]:
        """A wake-up that is called whenever `name` is woken, from now on."""
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        wakeup = Wakeup()
        waiters = self._waiters.setdefault(name, set())
        waiters.add(wakeup)
        try:
            yield wakeup
        finally:
            waiters.remove(wakeup)
            if not waiters and self._waiters.get(name) is waiters:
                del self._waiters[name]

    async def close(self) -> None:
        """Stops listening and wakes all waiters."""
        while self._listening is not None:
            # Once is not always enough: while it connects, the client may swallow a cancellation.
            self._listening.cancel()
            await asyncio.wait([self._listening], timeout=CANCEL_AGAIN_S)
            if self._listening.done():
                self._listening = None
        self._wake_all()

    async def _listen(self) -> None:
        backoff = Backoff(RETRY_S)
        while True:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    async for message in subscription.listen():
                        if message["type"] == "subscribe":
                            # The client subscribes again by itself after a lost connection; messages may be missing.
                            self._wake_all()
                        elif message["type"] == "message":
                            for name in _decode_names(message["data"]):
                                self._wake(name)
            except (RedisError, OSError) as error:
                logger.warning("lost the subscription to the stream store: %s", error)
            except Exception:
                logger.exception("the subscription to the stream store broke")
            self._wake_all()
            await backoff.pause()

    def _wake(self, name: str) -> None:
        for wakeup in self._waiters.get(name, ()):
            wakeup()

    def _wake_all(self) -> None:
        for name in self._waiters:
            self._wake(name)
