"""Milliseconds from the call that cancels a stream to its freed place in the batch.

    python -m benchmarks.cancel [--rounds 200] [--streams 64]

Two ingress processes and a simulated model that runs one sequence. One stream has the place and another waits for it; the
place is free at the latest when the first token of the other one is at the client, 1 ms of simulated prefill included. The
call goes to the ingress that produces the stream and to the other one, without load and beside `--streams` streams that are
read. All processes share this machine with the client. Run it from the top folder of the repository. Ports 8000, 8404, 9101
and 30000 to 30019 must be free.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.serve.server import Server, running
from benchmarks.serve.summary import summarize

PORT = 8000
PORTS = (PORT, 8404, 9101)
# Where Serve lets ingress replicas listen, for HAProxy.
INGRESS_PORTS = range(30000, 30020)
START_TIMEOUT_S = 300.0
ENDLESS = {"prompt": "x", "max_tokens": 2000, "on_disconnect": "continue", "detach": True}


def configuration() -> dict[str, Any]:
    """The shipped one with two simulated models: `single` for the cancelled streams, `pace` for the others."""
    config: dict[str, Any] = yaml.safe_load(Path("serve_config.yaml").read_text())
    args = config["applications"][0]["args"]
    pace = {
        **args["models"][0],
        "name": "pace",
        "engine": "simulated",
        "cpus_per_replica": 0.1,
        "max_replicas": 1,
        "max_running_sequences": 256,
    }
    single = {
        **pace,
        "name": "single",
        "simulated": {"first_token_s": 0.001, "step_s": 0.02},
        "max_running_sequences": 1,
        "max_waiting_sequences": 4,
    }
    args["models"] = [pace, single]
    args["ingress"] = {**args["ingress"], "replicas": 2}
    return config


async def ingress_addresses() -> list[str]:
    """The addresses of the two ingress processes, without HAProxy. Waits until both answer."""
    async with httpx.AsyncClient(timeout=5) as client:
        found: list[str] = []
        for _ in range(100):
            found = []
            for port in INGRESS_PORTS:
                with suppress(httpx.HTTPError, ValueError):
                    answer = await client.get(f"http://127.0.0.1:{port}/health")
                    if answer.json() == {"status": "ok"}:
                        found.append(f"http://127.0.0.1:{port}")
            if len(found) == 2:
                break
            await asyncio.sleep(0.2)
        else:
            raise SystemExit(f"two ingress processes must answer, and {len(found)} did: {found}")
    return found


async def start(client: httpx.AsyncClient, producer: str) -> str:
    answer = await client.post(f"{producer}/v1/streams", json={**ENDLESS, "model": "single"})
    return str(answer.json()["stream"])


async def first_token_s(client: httpx.AsyncClient, producer: str, stream: str) -> float:
    """When the stream's first delta came."""
    async with client.stream("GET", f"{producer}/v1/streams/{stream}/events") as response:
        async for line in response.aiter_lines():
            if line.startswith("data: ") and '"type":"delta"' in line:
                return time.perf_counter()
    raise SystemExit(f"the stream {stream} ended without a token")


async def measure(client: httpx.AsyncClient, producer: str, caller: str, rounds: int) -> list[float]:
    """Seconds from call to freed place, of `rounds` cancellations at `caller` of streams that `producer` produces."""
    took_s = []
    stream = await start(client, producer)
    await first_token_s(client, producer, stream)
    for _ in range(rounds):
        waiting = await start(client, producer)
        freed = asyncio.ensure_future(first_token_s(client, producer, waiting))
        await asyncio.sleep(0.05)
        began_s = time.perf_counter()
        answer = await client.delete(f"{caller}/v1/streams/{stream}")
        answer.raise_for_status()
        took_s.append(await freed - began_s)
        stream = waiting
    await client.delete(f"{caller}/v1/streams/{stream}")
    return took_s


class Reader(asyncio.Protocol):
    """Reads one stream through HAProxy at little cost: it only counts the bytes."""

    def __init__(self, seed: int, lost: asyncio.Future[None]) -> None:
        self.bytes = 0
        self._lost = lost
        body = json.dumps({"model": "pace", "prompt": "x", "max_tokens": 2000, "seed": seed}).encode()
        head = f"POST /v1/streams HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        self._request = head.encode() + b"Content-Type: application/json\r\n\r\n" + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)


async def read_forever(seed: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        lost: asyncio.Future[None] = loop.create_future()
        transport, reader = await loop.create_connection(partial(Reader, seed, lost), "127.0.0.1", PORT)
        try:
            await lost
        finally:
            transport.abort()
        if reader.bytes < 10_000:
            raise SystemExit(f"a stream of the load ended after {reader.bytes} bytes: refused or broken")


async def compare(rounds: int, streams: int) -> None:
    """Prints a line for each way to cancel and each load."""
    first, second = await ingress_addresses()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        for load in sorted({0, streams}):
            readers = [asyncio.ensure_future(read_forever(seed)) for seed in range(load)]
            await asyncio.sleep(2.0 if load else 0.0)
            for title, caller in (("producing ingress", first), ("other ingress", second)):
                seen = summarize([1000 * each for each in await measure(client, first, caller, rounds)])
                assert seen is not None
                print(
                    f"{load:3d} other streams, through the {title + ':':18s} n {seen.count}, p50 {seen.p50:.1f} ms, "
                    f"p99 {seen.p99:.1f} ms, max {seen.maximum:.1f} ms "
                    f"(load average {os.getloadavg()[0]:.1f})",
                    flush=True,
                )
            for reader in readers:
                if reader.done():
                    reader.result()
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


def run(server: Server, rounds: int, streams: int) -> None:
    server.wait_until_healthy(PORT, "/health", START_TIMEOUT_S)
    asyncio.run(compare(rounds, streams))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--streams", type=int, default=64)
    arguments = parser.parse_args()
    serve = str(Path(sys.executable).with_name("serve"))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.yaml"
        path.write_text(yaml.safe_dump(configuration(), sort_keys=False))
        environment = {
            "PYTHONPATH": str(Path.cwd()),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with running([serve, "run", str(path)], ports=PORTS, environment=environment) as server:
            run(server, arguments.rounds, arguments.streams)


if __name__ == "__main__":
    main()
