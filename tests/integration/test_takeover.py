"""Streams whose processes die: generators and ingress processes, by SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence

import httpx

from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED
from tests.integration.replicas import INGRESS, replaced
from tests.integration.scenario import LONG, STORY, alone, live, mixed, reached, read_anyhow
from tests.integration.sse_client import Reading, follow, post


def test_a_generator_that_dies_is_not_noticed_by_readers(server: Cluster) -> None:
    title = f"ServeReplica:streaming:Generator:{SIMULATED}"

    async def test(client: httpx.AsyncClient) -> None:
        requests = await mixed(client)
        expected = await alone(client, requests)
        readings = [Reading() for _ in requests]
        posts = [
            asyncio.ensure_future(post(client, fields, reading))
            for fields, reading in zip(requests, readings, strict=True)
        ]
        await reached(readings, 40)
        killed = server.processes(title)[0]
        os.kill(killed, signal.SIGKILL)
        await asyncio.gather(*posts)
        assert [reading.hashes for reading in readings] == expected
        await replaced(server, title, 2, killed)

    live(server, test)


def test_another_process_goes_on_with_the_streams_of_an_ingress_that_dies(server: Cluster) -> None:
    """Whoever reads them comes back with `Last-Event-ID`; those that are to go on without a reader do."""

    async def test(client: httpx.AsyncClient) -> None:
        stories = [{**STORY, "temperature": 0}, {**STORY, "seed": 5}, {**STORY, "seed": 6, "n": 2}]
        requests = [*await mixed(client), *stories]
        expected = await alone(client, requests)
        unread = []
        for seed in range(6):
            fields = {**LONG, "seed": seed, "detach": True, "on_disconnect": "continue"}
            unread.append((await client.post("/v1/streams", json=fields)).json()["stream"])
        readings = [Reading() for _ in requests]
        reads = [
            asyncio.ensure_future(read_anyhow(client, fields, reading))
            for fields, reading in zip(requests, readings, strict=True)
        ]
        await reached(readings, 20)
        killed = server.processes(INGRESS)[0]
        os.kill(killed, signal.SIGKILL)
        await asyncio.gather(*reads)
        assert [reading.hashes for reading in readings] == expected
        moved = sum(reading.connections > 1 for reading in readings)
        print(f"\n{moved} of {len(readings)} streams were taken over")
        assert 0 < moved < len(readings)

        await _all_ended(client, unread)
        finished = [await follow(client, stream, Reading()) for stream in unread]
        assert [reading.hashes for reading in finished] == expected[:6]
        await replaced(server, INGRESS, 2, killed)

    live(server, test)


def test_a_log_and_tokenizers_that_die_are_found_again(server: Cluster) -> None:
    """Running streams notice nothing. New ones wait for what is missing or are told to come back, and start as before."""

    async def test(client: httpx.AsyncClient) -> None:
        [expected] = await alone(client, [LONG])
        readings = [Reading() for _ in range(4)]
        running = [asyncio.ensure_future(post(client, LONG, reading)) for reading in readings]
        await reached(readings, 20)
        titles = ["ServeReplica:streaming:StreamStore", f"ServeReplica:streaming:Tokenizer:{SIMULATED}"]
        killed = {title: server.processes(title)[0] for title in titles}
        for pid in killed.values():
            os.kill(pid, signal.SIGKILL)
        answer = await client.post("/v1/streams", json={**LONG, "max_tokens": 3, "stream": False})
        assert answer.status_code in (200, 503), answer.text
        await asyncio.gather(*running)
        assert [reading.hashes for reading in readings] == [expected] * len(readings)
        for title, pid in killed.items():
            await replaced(server, title, 1, pid)
        again = Reading()
        await post(client, LONG, again)
        assert again.hashes == expected
        await _all_ended(client, [again.stream])

    live(server, test)


async def _all_ended(client: httpx.AsyncClient, streams: Sequence[str]) -> None:
    """Returns when every process says so: one that does not produce a stream hears of its end from the store."""
    give_up_s = time.monotonic() + 30
    states = [""]
    while set(states) != {"ended"} and time.monotonic() < give_up_s:
        await asyncio.sleep(0.5)
        states = [await _state(client, stream) for stream in streams]
    assert set(states) == {"ended"}


async def _state(client: httpx.AsyncClient, stream: str) -> str:
    try:
        answer = await client.get(f"/v1/streams/{stream}")
    except httpx.TransportError as error:
        return str(error)
    return str(answer.json()["state"]) if answer.status_code == 200 else answer.text
