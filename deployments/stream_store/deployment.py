"""The stream store in memory as a deployment of its own: one replica, which every ingress process calls.

It does not outlive its process. Ingress processes tell a new one about the streams that they generate; ended streams are gone.
"""

from __future__ import annotations

import ray

from app.clock import SystemClock
from app.streams import store
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from deployments.links.server import LinkServer
from deployments.messages.port_requests import PortRequests

MAX_CALLS = 4096
"""Calls that are done at once. Each ingress process waits in one for orders, and in one per followed stream."""

LEARNING_S = 4.0
"""Every ingress process has connected by then; less than the time limit of a call."""

_REQUESTS = PortRequests(store.StreamStore)


class StreamStore:
    """A `MemoryStreamStore` that is called on links."""

    def __init__(self, bounds: StoreBounds) -> None:
        self._store = MemoryStreamStore(bounds, SystemClock(), LEARNING_S)
        self._link = LinkServer(self.call, max_calls=MAX_CALLS)

    async def link_address(self) -> bytes:
        """The encoded `LinkAddress` on which `call` can be reached."""
        return await self._link.address(ray.util.get_node_ip_address())

    async def call(self, data: bytes) -> bytes:
        """The encoded reply to an encoded request. Cancelling it cancels the call."""
        return await _REQUESTS.answer(data, self._store)
