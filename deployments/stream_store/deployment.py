"""The stream store in memory as a deployment of its own: one replica, which every ingress process calls.

It does not outlive its process. Ingress processes tell a new one about the streams that they generate; ended streams are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import ray

from app.clock import SystemClock
from app.streams import store
from app.streams.learning import Learning
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from deployments.links.server import LinkServer
from deployments.messages.port_requests import PortRequests

MAX_CALLS = 4096
"""Calls that are done at once. Each ingress process waits in one for orders, and in one per followed stream."""

LEARNING_POLL_S = 1.0
"""How often it is looked which producers have died before they told of their streams."""

_REQUESTS = PortRequests(store.StreamStore)


class StreamStore:
    """A `MemoryStreamStore` that is called on links. It is told of streams by the `producers`, named by the ids of replicas."""

    def __init__(self, bounds: StoreBounds, producers: Callable[[], list[str]]) -> None:
        self._producers = producers
        self._learning = Learning(producers())
        self._store = MemoryStreamStore(bounds, SystemClock(), self._learning)
        self._link = LinkServer(self.call, max_calls=MAX_CALLS)
        self._forgetting: asyncio.Task[None] | None = None

    async def link_address(self) -> bytes:
        """The encoded `LinkAddress` on which `call` can be reached."""
        if self._forgetting is None:
            self._forgetting = asyncio.create_task(self._forget_the_dead())
        return await self._link.address(ray.util.get_node_ip_address())

    async def call(self, data: bytes) -> bytes:
        """The encoded reply to an encoded request. Cancelling it cancels the call."""
        return await _REQUESTS.answer(data, self._store)

    async def _forget_the_dead(self) -> None:
        while not self._learning.is_over:
            self._learning.keep(await asyncio.to_thread(self._producers))
            await asyncio.sleep(LEARNING_POLL_S)
