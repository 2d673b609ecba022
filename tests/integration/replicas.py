"""Replica processes of a running server: which have had requests, and when one that died has been replaced.

What HAProxy counts begins anew when it is told of other servers: compare counts only while nobody comes or goes.
"""

from __future__ import annotations

import asyncio
import time

import httpx

from tests.integration.cluster import Cluster

RESTART_S = 90.0


INGRESS = "ServeReplica:streaming:Ingress"


def served(server: Cluster) -> dict[str, int]:
    """How many requests each ingress process has had, as HAProxy counts them."""
    return {
        f"{row['pxname']}/{row['svname']}": int(row["stot"])
        for row in server.haproxy_servers()
        if int(row["stot"] or 0) > 0
    }


async def replaced(server: Cluster, title: str, count: int, killed: int) -> None:
    """Returns when Serve has put another process into the place of the one that was killed, and HAProxy uses it."""
    give_up_s = time.monotonic() + RESTART_S
    while (
        len(set(server.processes(title)) - {killed}) < count
        or (title == INGRESS and server.ingress_in_use() < count)
        or not await healthy(server)
    ):
        assert time.monotonic() < give_up_s, f"{title} was not replaced"
        await asyncio.sleep(0.5)


async def healthy(server: Cluster) -> bool:
    """Whether every ingress process that HAProxy uses says that a stream could start; four requests reach two of them."""
    async with httpx.AsyncClient(base_url=server.base_url) as client:
        try:
            return all([(await client.get("/health")).status_code == 200 for _ in range(4)])
        except httpx.TransportError:
            return False
