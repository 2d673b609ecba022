"""Real `EventSource`s, Chromium's and that of the npm package, which reconnect by themselves in mid-stream."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.integration.browser import Browser
from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.replicas import INGRESS, replaced, served
from tests.integration.sse_client import Reading

SOURCES = Path(__file__).parent / "eventsource"
PACKAGE = Path(sys.prefix) / "eventsource"
PAGES = {"/": SOURCES / "page.html", "/watch.js": SOURCES / "watch.js"}
# In the response's head, in an event, a little later; then twice in what has come together meanwhile.
CUTS_AFTER_BYTES = [150, 2000, 3001]
STREAMS, MOST_STREAMS = 4, 12
PATIENCE_S = 120.0


async def start(client: httpx.AsyncClient, seed: int) -> str:
    """A stream of about 18 s. Everybody who reads it is cut off more than once, so that it must go on by itself."""
    fields = {"model": SIMULATED, "prompt": "Once", "max_tokens": 900, "seed": seed, "n": 1 + seed % 2}
    answer = await client.post("/v1/streams", json={**fields, "detach": True, "on_disconnect": "continue"})
    return str(answer.json()["stream"])


async def read_with_chromium(origin: str, streams: Sequence[str]) -> list[dict[str, Any]]:
    async with Browser() as browser:
        await browser.visit(f"{origin}/?{'&'.join(f'stream={stream}' for stream in streams)}")
        seen: list[dict[str, Any]] = []
        while not (seen and all(each["stopped"] for each in seen)):
            await asyncio.sleep(0.5)
            seen = await browser.evaluate("window.seen")
        return seen


async def read_with_npm(origin: str, streams: Sequence[str]) -> list[dict[str, Any]]:
    node = shutil.which("node")
    assert node and (PACKAGE / "node_modules").is_dir(), "this test needs node and an npm package (make test)"
    process = await asyncio.create_subprocess_exec(
        node, str(SOURCES / "client.mjs"), str(PACKAGE), origin, *streams, stdout=asyncio.subprocess.PIPE
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    seen: list[dict[str, Any]] = json.loads(said)
    return seen


def check(stream: str, seen: dict[str, Any], statuses: list[int]) -> list[str]:
    """The hashes of the texts, which came without gap and repeat over many connections, the last of which got 204."""
    reading = Reading()
    for event_id, frame in seen["events"]:
        reading.take(event_id, frame)
    assert reading.stream == stream and reading.ended
    assert set(statuses[:-1]) == {200} and statuses[-1] == 204, statuses
    assert len(statuses) > len(CUTS_AFTER_BYTES) + 1
    return reading.hashes


def test_event_sources_reconnect_by_themselves_and_stop_after_the_end(server: Cluster) -> None:
    async def main() -> None:
        async with (
            httpx.AsyncClient(base_url=server.base_url, timeout=60) as client,
            CuttingProxy(server.base_url, PAGES, CUTS_AFTER_BYTES) as for_chromium,
            CuttingProxy(server.base_url, {}, CUTS_AFTER_BYTES) as for_npm,
            asyncio.timeout(PATIENCE_S),
        ):
            before = served(server)
            streams = [await start(client, seed) for seed in range(STREAMS)]
            # Each process is to produce some, so that whichever of them dies was producing some.
            while sum(count > before.get(name, 0) for name, count in served(server).items()) < 2:
                assert len(streams) < MOST_STREAMS
                streams.append(await start(client, len(streams)))
            reads = [
                asyncio.ensure_future(read_with_chromium(for_chromium.origin, streams)),
                asyncio.ensure_future(read_with_npm(for_npm.origin, streams)),
            ]
            paths = [f"/v1/streams/{stream}/events" for stream in streams]
            proxies = [for_chromium, for_npm]
            while min(len(proxy.statuses[path]) for proxy in proxies for path in paths) <= len(
                CUTS_AFTER_BYTES
            ):
                assert not any(read.done() for read in reads), [read.result() for read in reads]
                await asyncio.sleep(0.1)
            status = (await client.get(f"/v1/streams/{streams[0]}")).json()
            assert status["state"] == "running"
            killed = server.processes(INGRESS)[0]
            os.kill(killed, signal.SIGKILL)

            results = await asyncio.gather(*reads)
            hashes = [
                [
                    check(stream, seen, proxy.statuses[path])
                    for stream, path, seen in zip(streams, paths, result, strict=True)
                ]
                for proxy, result in zip(proxies, results, strict=True)
            ]
            assert hashes[0] == hashes[1]
            reconnected = [len(proxy.statuses[path]) for proxy in proxies for path in paths]
            print(f"\nconnections: {reconnected}")
            assert max(reconnected) > len(CUTS_AFTER_BYTES) + 2  # the process that died had readers
        await replaced(server, INGRESS, 2, killed)

    asyncio.run(main())
