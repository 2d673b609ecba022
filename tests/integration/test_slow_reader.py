"""A client that does not read, behind the real HAProxy: its generation pauses, and goes on when it reads again."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED
from tests.integration.scenario import live
from tests.integration.sse_client import Reading

# Log probabilities and four choices make the frames large: what fits into the buffers on the way is not much then.
WIDE: dict[str, Any] = {"model": SIMULATED, "prompt": "x", "max_tokens": 1200, "logprobs": 20, "n": 4}
STEADY_S = 2.0


async def stands_at(client: httpx.AsyncClient, stream: str) -> int:
    """How many tokens a running stream has when it has stopped moving."""
    seen = [-1]
    until_s = time.monotonic() + 60
    while len(seen) < 2 or seen[-1] != seen[-2]:
        assert time.monotonic() < until_s, seen
        await asyncio.sleep(STEADY_S)
        found = (await client.get(f"/v1/streams/{stream}")).json()
        assert found["state"] == "running", found
        seen.append(found["usage"]["completion_tokens"])
    return seen[-1]


def requested(server: Cluster, fields: dict[str, Any]) -> HTTPResponse:
    """The response to a request on a connection of its own, whose receive buffer is small."""
    address = urlsplit(server.base_url)
    assert address.hostname is not None and address.port is not None
    connection = HTTPConnection(address.hostname, address.port)
    connection.sock = socket.socket()
    connection.sock.settimeout(60)
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    connection.sock.connect((address.hostname, address.port))
    headers = {"content-type": "application/json", "connection": "close"}
    connection.request("POST", "/v1/streams", json.dumps(fields), headers)
    return connection.getresponse()


def read_events(response: HTTPResponse) -> Reading:
    """The frames of the body, to its end."""
    reading = Reading()
    event_id = ""
    for line in response:
        if line.startswith(b"id: "):
            event_id = line[4:].decode().strip()
        elif line.startswith(b"data: "):
            reading.take(event_id, json.loads(line[6:]))
    return reading


def test_generation_waits_for_a_client_that_does_not_read(server: Cluster) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        with await asyncio.to_thread(requested, server, WIDE) as response:
            stream = response.headers["x-stream-id"]
            tokens = await stands_at(client, stream)
            print(f"\npaused at {tokens} of {WIDE['n'] * WIDE['max_tokens']} tokens")
            assert tokens < WIDE["n"] * WIDE["max_tokens"]
            reading = await asyncio.to_thread(read_events, response)
            assert reading.ended and len(reading.hashes) == WIDE["n"]

    live(server, test)
