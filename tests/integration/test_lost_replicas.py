"""A stream whose replicas die one after the other before its first token, as they do of a request that kills them."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import httpx

from tests.integration.cluster import Cluster
from tests.integration.conftest import SILENT
from tests.integration.replicas import replaced
from tests.integration.scenario import LONG, live, reached
from tests.integration.sse_client import Reading, post

TITLE = f"ServeReplica:streaming:Generator:{SILENT}"
RETRIED_S = 4.0
"""The longest pause between two attempts, and some more."""


def test_a_stream_that_loses_two_replicas_without_a_token_is_given_up(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        suspect, other = Reading(), Reading()
        posts = [
            asyncio.ensure_future(post(client, fields, reading))
            for fields, reading in (
                ({**LONG, "model": SILENT}, suspect),
                ({**LONG, "max_tokens": 1500}, other),
            )
        ]
        await reached([other], 10)
        first = _kill(server)
        await replaced(server, TITLE, 1, first)
        await asyncio.sleep(RETRIED_S)
        assert [frame["type"] for frame in suspect.frames] == ["start"]
        killed, killed_s = _kill(server), time.monotonic()
        await posts[0]
        assert time.monotonic() - killed_s < 15
        error = suspect.frames[-1]["error"]
        assert (error["code"], error["retryable"]) == ("generation_failed", False)
        refused = await client.post("/v1/streams", json={**LONG, "model": SILENT})
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        await posts[1]
        assert other.frames[-1]["type"] == "end"
        assert other.frames[0]["deterministic"] is True
        await replaced(server, TITLE, 1, killed)

    live(server, test)


def _kill(server: Cluster) -> int:
    [process] = server.processes(TITLE)
    os.kill(process, signal.SIGKILL)
    return process
