"""The links of this process to the replicas of one deployment: one to each that Serve lists, made again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.ingress.calls import detached, serve_options
from deployments.ingress.replicas import ReplicaDirectory, ReplicaGone, directory_of
from deployments.links.connection import LinkConnection, connect
from deployments.links.link import LinkAddress, LinkBroken, decode_address

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 5.0
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0

Find = Callable[[str], Awaitable[LinkAddress]]
"""Asks a replica, by its id, where it listens."""


def links_to(handle: DeploymentHandle[Any]) -> LinkClient:
    """The links to the deployment of `handle`, whose replicas say through Serve where they listen (`link_address`)."""
    addresses = handle.options(method_name="link_address", **serve_options())

    async def find(replica: str) -> LinkAddress:
        return decode_address(await addresses.options(session_id=replica).remote())

    return LinkClient(directory_of(handle.app_name, handle.deployment_name), find)


class LinkClient:
    """A call goes to the replica with the fewest calls of ours under way. Lives on one event loop; to be started and closed."""

    def __init__(self, directory: ReplicaDirectory, find: Find) -> None:
        self._directory = directory
        self._find = find
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Of the replicas that are listed, and of those that were when we connected.
        self._connections: dict[str, LinkConnection] = {}
        self._open: dict[str, LinkConnection] = {}
        self._connected = asyncio.Event()

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        """See `deployments.links.link.Link.call`. Waits for a replica if none is connected."""
        began_s = asyncio.get_running_loop().time()
        connection: LinkConnection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while not self._connections:
                    await self._connected.wait()
                connection = min(self._connections.values(), key=lambda connection: connection.calls)
                return await connection.call(request)
        except TimeoutError:
            if connection is not None and connection.heard_s <= began_s:
                connection.abort()  # nothing at all has come: it is dead
            raise

    def to(self, replica: str) -> LinkConnection:
        """The connection to one replica, which may have left Serve's list while something of ours is under way there.

        Raises `LinkBroken` while there is none, and `ReplicaGone` when there will be none.
        """
        connection = self._open.get(replica)
        if connection is not None:
            return connection
        if replica in self._directory.replicas:
            raise LinkBroken(f"{replica} is not connected")
        raise ReplicaGone(replica)

    def start(self) -> None:
        """Connects to the replicas that are listed, and to others as they come. Returns at once."""
        self._loop = asyncio.get_running_loop()
        self._directory.subscribe(self._on_replicas)
        self._follow()

    async def close(self) -> None:
        """Closes the connections; calls under way may end. Idempotent."""
        self._directory.unsubscribe(self._on_replicas)
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_replicas(self, _: frozenset[str]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        listed = self._directory.replicas
        for replica in self._tasks.keys() - listed:
            self._tasks.pop(replica).cancel()
        for replica in listed - self._tasks.keys():
            self._tasks[replica] = detached(self._keep(replica))

    async def _keep(self, replica: str) -> None:
        """Keeps the link to one replica, until cancelled."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._link(replica)
                retry_s = FIRST_RETRY_S
            except asyncio.CancelledError:
                # Serve turns the cancellation of a call by the other side into this, too.
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            except Exception as error:
                logger.info("There is no link to %s: %s", replica, type(error).__name__)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
            await asyncio.sleep(retry_s)

    async def _link(self, replica: str) -> None:
        """Connects, and returns when the connection has broken. Cancelled, it lets the calls under way end."""
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            connection = await connect(await self._find(replica))
        connection.on_lost = lambda: self._lost(replica, connection)
        self._connections[replica] = self._open[replica] = connection
        self._connected.set()
        try:
            await asyncio.shield(connection.lost)
        finally:
            self._forget(replica)
            connection.close()

    def _lost(self, replica: str, connection: LinkConnection) -> None:
        if self._open.get(replica) is connection:
            del self._open[replica]
            self._forget(replica)

    def _forget(self, replica: str) -> None:
        self._connections.pop(replica, None)
        if not self._connections:
            self._connected.clear()
