"""The links of this process to the replicas of one deployment: one to each that Serve lists, made again whenever it breaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from app.backoff import Backoff
from deployments.ingress.detached_task import detached_task
from deployments.ingress.handle_options import handle_options
from deployments.ingress.replicas import ReplicaDirectory, ReplicaGone, directory_of
from deployments.links.address import LinkAddress, decode_address
from deployments.links.connection import LinkConnection, connect
from deployments.links.link import LinkBroken

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 5.0
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0

Find = Callable[[str], Awaitable[LinkAddress]]
"""Asks a replica, by its id, where it listens."""


def links_to(handle: DeploymentHandle[Any]) -> ReplicaLinks:
    """The links to the deployment of `handle`, whose replicas say through Serve where they listen (`link_address`)."""
    addresses = handle.options(method_name="link_address", **handle_options())

    async def find(replica: str) -> LinkAddress:
        return decode_address(await addresses.options(session_id=replica).remote())

    return ReplicaLinks(directory_of(handle.app_name, handle.deployment_name), find)


class ReplicaLinks:
    """Implements `deployments.links.link.Link`: a call goes to the listed replica with the fewest open calls of this process.

    Lives on one event loop. To be started and closed.
    """

    def __init__(self, directory: ReplicaDirectory, find: Find) -> None:
        self._directory = directory
        self._find = find
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listed: dict[str, LinkConnection] = {}
        # Also those of replicas that have left the list while calls are open on them.
        self._open: dict[str, LinkConnection] = {}
        self._has_listed = asyncio.Event()

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        """See `deployments.links.link.Link.call`. Waits for a replica if none is connected."""
        began_s = asyncio.get_running_loop().time()
        connection: LinkConnection | None = None
        try:
            async with asyncio.timeout(timeout_s):
                while not self._listed:
                    await self._has_listed.wait()
                connection = min(self._listed.values(), key=lambda connection: connection.calls)
                return await connection.call(request)
        except TimeoutError:
            if connection is not None and connection.last_received_s <= began_s:
                connection.abort()  # a process that works would have sent something
            raise

    def to(self, replica: str) -> LinkConnection:
        """The connection to one replica, listed or with open calls of this process.

        Raises `LinkBroken` while there is none, and `ReplicaGone` when there will be none.
        """
        connection = self._open.get(replica)
        if connection is not None:
            return connection
        if replica in self._directory.replicas:
            raise LinkBroken(f"The replica {replica} is not connected.")
        raise ReplicaGone(replica)

    def start(self) -> None:
        """Connects to the listed replicas, and to others when they are listed. Returns at once."""
        self._loop = asyncio.get_running_loop()
        self._directory.subscribe(self._on_replicas)
        self._update()

    async def close(self) -> None:
        """Closes each connection as soon as it has no open calls. Idempotent."""
        self._directory.unsubscribe(self._on_replicas)
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on_replicas(self, _: frozenset[str]) -> None:
        """Called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._update)

    def _update(self) -> None:
        listed = self._directory.replicas
        for replica in self._tasks.keys() - listed:
            self._tasks.pop(replica).cancel()
        for replica in listed - self._tasks.keys():
            self._tasks[replica] = detached_task(self._keep_linked(replica))

    async def _keep_linked(self, replica: str) -> None:
        """Keeps the link to one replica, until cancelled."""
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        while True:
            try:
                await self._link(replica)
                backoff.reset()
            except asyncio.CancelledError:
                # When the replica cancels its `link_address` call, Serve raises this here as well.
                if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                    raise
            except Exception as error:
                logger.info("There is no link to %s: %s", replica, type(error).__name__)
            await backoff.pause()

    async def _link(self, replica: str) -> None:
        """Connects, and returns when the connection has broken. Cancelled, it lets open calls end."""
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            connection = await connect(await self._find(replica))

        def lost() -> None:
            if self._open.get(replica) is connection:
                del self._open[replica]
                self._unlist(replica)

        connection.on_lost = lost
        self._listed[replica] = self._open[replica] = connection
        self._has_listed.set()
        try:
            await asyncio.shield(connection.lost)
        finally:
            self._unlist(replica)
            connection.close()

    def _unlist(self, replica: str) -> None:
        self._listed.pop(replica, None)
        if not self._listed:
            self._has_listed.clear()
