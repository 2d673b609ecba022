"""The client library against the real server: through cuts, and through the death of an ingress process."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from app.schema.frames import Delta
from streaming_inference import Client, GenerationStream, NotFound, Result
from tests.integration.cluster import Cluster
from tests.integration.conftest import SIMULATED
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.replicas import INGRESS, replaced

PROMPT = "Once upon a time"
LONG: dict[str, Any] = {"model": SIMULATED, "prompt": "x", "max_tokens": 200}


def test_the_library_reads_what_the_server_makes(server: Cluster) -> None:
    async def main() -> None:
        async with Client(server.base_url) as client:
            request: dict[str, Any] = {"model": "storyteller", "prompt": PROMPT, "max_tokens": 24, "seed": 3}
            result = await client.generate(**request, n=2, logprobs=1, return_token_ids=True).result()
            assert result.verified and len(result.choices) == 2
            for choice in result.choices:
                assert choice.text and choice.token_ids and choice.logprobs
                assert len(choice.token_ids) == len(choice.logprobs)
            smooth = [text async for text in client.generate(**request).text(smooth=True)]
            assert "".join(smooth) == result.choices[0].text
            with pytest.raises(NotFound):
                await client.status("st_" + "0" * 32)

    asyncio.run(main())


def test_the_library_cancels_what_it_leaves_and_goes_on_with_what_it_left(server: Cluster) -> None:
    async def main() -> None:
        async with Client(server.base_url) as client:
            began_s = time.monotonic()
            async with client.generate(model=SIMULATED, prompt="x", max_tokens=2000) as left:
                async for frame in left:
                    if isinstance(frame, Delta):
                        break
            assert time.monotonic() - began_s < 20
            assert left.id is not None
            status = await client.status(left.id)
            assert status.choices is not None and status.choices[0].finish_reason == "cancelled"
            name = await client.start(model=SIMULATED, prompt="x", max_tokens=100, seed=5)
            readers = [client.resume(name, on_exit="leave").result() for _ in range(4)]
            texts = {result.text for result in await asyncio.gather(*readers)}
            assert len(texts) == 1

    asyncio.run(main())


def test_the_library_reads_through_cuts(server: Cluster) -> None:
    async def main() -> None:
        async with (
            CuttingProxy(server.base_url, {}, [700, 400, 1000, 2000, 350, 1500]) as proxy,
            Client(server.base_url) as direct,
            Client(proxy.origin) as client,
        ):
            name = await direct.start(**LONG, seed=1)
            stream = client.resume(name)
            result = await stream.result()
            assert result.verified and result.usage.completion_tokens == 200
            assert stream.connections == 7

    asyncio.run(main())


async def finish(stream: GenerationStream, under_way: asyncio.Event) -> Result:
    async with stream:
        for _ in range(10):
            await stream.next()
        under_way.set()
        return await stream.result()


def test_the_library_goes_on_when_an_ingress_process_dies(server: Cluster) -> None:
    async def main() -> None:
        async with Client(server.base_url) as client:
            expected = await asyncio.gather(
                *(client.generate(**LONG, seed=seed).result() for seed in range(8))
            )
            streams = [client.generate(**LONG, seed=seed) for seed in range(8)]
            events = [asyncio.Event() for _ in streams]
            reads = [
                asyncio.ensure_future(finish(stream, event))
                for stream, event in zip(streams, events, strict=True)
            ]
            await asyncio.gather(*(event.wait() for event in events))
            killed = server.processes(INGRESS)[0]
            os.kill(killed, signal.SIGKILL)
            results = await asyncio.gather(*reads)
            assert [result.text for result in results] == [result.text for result in expected]
            assert all(result.verified for result in results)
            assert any(stream.connections > 1 for stream in streams)
            await replaced(server, INGRESS, 2, killed)

    asyncio.run(main())
