"""The stream store in memory as a deployment of its own: one replica, which every ingress process calls.

It does not outlive its process. Ingress processes tell a new one about the streams that they drive; ended streams are gone.
"""

from __future__ import annotations

import msgspec
import ray

from app.clock import SystemClock
from app.errors import ServiceError
from app.settings import Settings
from app.streams.memory_store import MemoryStreamStore, StoreBounds
from deployments.links.server import LinkServer
from deployments.messages.refusal import refusal
from deployments.messages.stream_store import Done, StoreCall, decode_call, encode


def store_bounds(settings: Settings) -> StoreBounds:
    """What the settings say about how much is kept."""
    streams = settings.streams
    return StoreBounds(
        max_streams=streams.max_streams,
        max_tokens=streams.max_tokens,
        retention_s=streams.retention_s,
        max_age_s=streams.retention_s + settings.limits.request_timeout_s,
        lease_s=streams.stall_timeout_s,
    )


MAX_CALLS = 4096
"""Calls that are done at once. Each ingress process waits in one for orders, and in one per followed stream."""


class StreamStore:
    """A `MemoryStreamStore` behind one method, which takes an encoded `StoreCall` and is called on links."""

    def __init__(self, bounds: StoreBounds) -> None:
        self._store = MemoryStreamStore(bounds, SystemClock())
        self._link = LinkServer(self.call, max_calls=MAX_CALLS)

    async def link_address(self) -> bytes:
        """The encoded `LinkAddress` on which `call` can be reached."""
        return await self._link.address(ray.util.get_node_ip_address())

    async def call(self, data: bytes) -> bytes:
        """The encoded answer of the call, or a `Refused`. Cancelling it cancels the call."""
        call: StoreCall = decode_call(data)
        try:
            return encode(Done(msgspec.Raw(encode(await call.on(self._store)))))
        except ServiceError as error:
            return encode(refusal(error))
