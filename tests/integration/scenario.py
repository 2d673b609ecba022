"""Requests that the tests of streams share, and clients that send them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED
from tests.integration.sse_client import Reading, follow, post

LONG: dict[str, Any] = {"model": SIMULATED, "prompt": "Once upon a time", "max_tokens": 300, "seed": 3}
STORY: dict[str, Any] = {
    "model": "storyteller",
    "messages": [{"role": "user", "content": "Tell me a story about a fox."}],
    "max_tokens": 200,
    "ignore_eos": True,
}


def live(server: Cluster, test: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        limits = httpx.Limits(max_connections=128)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=60, limits=limits) as client:
            await test(client)

    asyncio.run(main())


async def alone(client: httpx.AsyncClient, requests: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What the streams say when nothing happens to them."""
    return [reading.hashes for reading in await asyncio.gather(*(post(client, each) for each in requests))]


async def mixed(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Requests of many kinds on the simulated model."""
    whole = await post(client, {**LONG, "seed": 11})
    stop = next(
        frame["text"] for frame in whole.frames if frame["type"] == "delta" and int(frame["cursor"]) > 200
    )
    return [
        *({**LONG, "seed": seed} for seed in range(6)),
        *({**LONG, "seed": seed, "n": 2, "max_tokens": 250} for seed in range(4)),
        *({**LONG, "seed": 11, "stop": [stop], "n": n} for n in (1, 2)),
        {**LONG, "temperature": 0, "logprobs": 1, "return_token_ids": True},
    ]


async def reached(readings: Sequence[Reading], tokens: int) -> None:
    """Returns when every client has so many tokens."""
    give_up_s = time.monotonic() + 60
    while min(reading.tokens for reading in readings) < tokens:
        assert time.monotonic() < give_up_s, [reading.tokens for reading in readings]
        await asyncio.sleep(0.02)


async def read_anyhow(client: httpx.AsyncClient, fields: dict[str, Any], reading: Reading) -> Reading:
    """Starts the stream and reads it to its end, coming back as often as the connection breaks."""
    try:
        await post(client, fields, reading)
    except httpx.TransportError:
        await follow(client, reading.stream, reading)
    return reading
