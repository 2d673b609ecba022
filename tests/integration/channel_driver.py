"""Stands in for an ingress, in a process of its own: drives a generator deployment of the test cluster through the real client.

Prints what it saw, one JSON object for each scenario. `test_channel.py` judges it.

    python -m tests.integration.channel_driver APPLICATION DEPLOYMENT SCENARIO...
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, TokenBatch
from deployments.ingress.attempt import Attempt
from deployments.ingress.generators import GeneratorClient
from deployments.ingress.handle_options import handle_options
from deployments.ingress.replica_links import links_to
from deployments.ingress.replicas import directory_of

STREAMS = 48
ACCEPT_TIMEOUT_S = SILENCE_TIMEOUT_S = 3.0


class Sink:
    """Counts tokens and checks their order."""

    def __init__(self) -> None:
        self.tokens = 0
        self.disorder = 0
        self.finish: str | None = None
        self.losses = 0
        self.lost_s = 0.0
        self.ended = asyncio.Event()

    def feed(self, batch: TokenBatch) -> None:
        if batch.position != self.tokens:
            self.disorder += 1
        self.tokens += len(batch.token_ids)
        if batch.finish is not None:
            self.finish = batch.finish
            self.ended.set()

    def lost(self) -> None:
        self.losses += 1
        self.lost_s = time.monotonic()
        self.ended.set()


class Driver:
    """One generator client over a live deployment."""

    def __init__(self, application: str, deployment: str) -> None:
        self.ingress = f"driver-{secrets.token_hex(4)}"
        self.handle: DeploymentHandle[Any] = serve.get_deployment_handle(deployment, application)
        self.links = links_to(self.handle)
        self.directory = directory_of(application, deployment)
        self.client = GeneratorClient(
            self.links,
            self.directory,
            ingress=self.ingress,
            sequences_per_replica=100,
            accept_timeout_s=ACCEPT_TIMEOUT_S,
            silence_timeout_s=SILENCE_TIMEOUT_S,
        )
        self._statistics = self.handle.options(method_name="statistics", **handle_options())
        self._keys = iter(range(1, 1_000_000))

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def statistics(self, replica: str) -> dict[str, int]:
        answer: dict[str, int] = await self._statistics.options(session_id=replica).remote()
        return answer

    async def jobs(self) -> int:
        return sum([(await self.statistics(replica))["jobs"] for replica in self.directory.answering])

    def job(self, tokens: int) -> Job:
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True)
        return Job(ingress=self.ingress, key=next(self._keys), prompt=[1, 2, 3], sampling=sampling)

    @asynccontextmanager
    async def streams(self, count: int, tokens: int) -> AsyncIterator[list[tuple[Attempt, Sink]]]:
        async with AsyncExitStack() as stack:
            opened = []
            for _ in range(count):
                sink = Sink()
                opened.append(
                    (await stack.enter_async_context(self.client.open(self.job(tokens), sink)), sink)
                )
            yield opened


async def pinned(driver: Driver) -> dict[str, Any]:
    """Every replica is reached by its name."""
    answers = [await driver.statistics(replica) for replica in sorted(driver.directory.replicas)]
    return {"replicas": len(answers), "processes": len({answer["pid"] for answer in answers})}


async def pace(driver: Driver) -> dict[str, Any]:
    """Many streams to their end, and what they cost."""
    pids = [(await driver.statistics(replica))["pid"] for replica in driver.directory.replicas]
    tokens = 150
    async with driver.streams(STREAMS, tokens) as streams:
        before, began_s = {pid: cpu_s(pid) for pid in [*pids, os.getpid()]}, time.monotonic()
        counted = sum(sink.tokens for _, sink in streams)
        await asyncio.gather(*(sink.ended.wait() for _, sink in streams))
        counted = sum(sink.tokens for _, sink in streams) - counted
        spent = {pid: cpu_s(pid) - before[pid] for pid in before}
        wall_s = time.monotonic() - began_s
    sinks = [sink for _, sink in streams]
    return {
        "whole": sum(sink.tokens == tokens and sink.finish == "length" for sink in sinks),
        "disorder": sum(sink.disorder for sink in sinks),
        "tokens_per_s": round(counted / wall_s),
        "generator_us_per_token": round(1e6 * sum(spent[pid] for pid in pids) / counted, 1),
        "client_us_per_token": round(1e6 * spent[os.getpid()] / counted, 1),
        "replicas_used": len({generation.replica for generation, _ in streams}),
    }


async def breaks(driver: Driver) -> dict[str, Any]:
    """Channels that are cut again and again while streams run."""
    tokens = 150
    async with driver.streams(STREAMS, tokens) as streams:
        cuts = 0
        while not all(sink.ended.is_set() for _, sink in streams):
            await asyncio.sleep(0.3)
            for channel in driver.client._channels.values():
                if channel._call is not None:
                    channel._call.cancel()
                    cuts += 1
    sinks = [sink for _, sink in streams]
    return {
        "whole": sum(sink.tokens == tokens and sink.finish == "length" for sink in sinks),
        "disorder": sum(sink.disorder for sink in sinks),
        "losses": sum(sink.losses for sink in sinks),
        "cuts": cuts,
    }


async def cancels(driver: Driver) -> dict[str, Any]:
    """Streams that are left at random moments, most of them while they are being opened."""

    async def use() -> None:
        async with driver.client.open(driver.job(2000), Sink()):
            await asyncio.Event().wait()

    for _ in range(4):
        tasks = [asyncio.create_task(use()) for _ in range(25)]
        for task in tasks:
            await asyncio.sleep(random.choice([0, 0, 0.001, 0.005]))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    began_s = time.monotonic()
    while await driver.jobs() and time.monotonic() - began_s < 20:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return {"jobs": await driver.jobs(), "freed_s": round(time.monotonic() - began_s, 3)}


async def pauses(driver: Driver) -> dict[str, Any]:
    """A paused stream stands still while others go on, and goes on afterwards."""
    async with driver.streams(2, 2000) as ((paused, sink), (_, other)):
        await driver.until(lambda: sink.tokens > 5)
        paused.pause()
        await asyncio.sleep(0.5)
        stood, others = sink.tokens, other.tokens
        await asyncio.sleep(1)
        still, went_on = sink.tokens - stood, other.tokens - others
        paused.resume()
        await driver.until(lambda: sink.tokens > stood + 10)
    return {"paused_tokens": still, "other_tokens": went_on, "disorder": sink.disorder}


async def hang(driver: Driver) -> dict[str, Any]:
    """A replica that stops without dying, and comes back."""
    async with driver.streams(8, 2000) as streams:
        replica = streams[0][0].replica
        hit = [sink for generation, sink in streams if generation.replica == replica]
        spared = [sink for generation, sink in streams if generation.replica != replica]
        pid = (await driver.statistics(replica))["pid"]
        began_s = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            await driver.until(lambda: all(sink.losses for sink in hit), 20)
            sink = Sink()
            async with driver.client.open(driver.job(10), sink) as generation:
                elsewhere = generation.replica != replica
        finally:
            os.kill(pid, signal.SIGCONT)
    await driver.until(lambda: replica in driver.directory.answering, 30)
    return {
        "lost_after_s": round(max(sink.lost_s for sink in hit) - began_s, 3),
        "hit": len(hit),
        "spared": len(spared),
        "spared_losses": sum(sink.losses for sink in spared),
        "elsewhere": elsewhere,
    }


async def kill(driver: Driver) -> dict[str, Any]:
    """A replica that dies."""
    async with driver.streams(12, 2000) as streams:
        replica = streams[0][0].replica
        hit = [sink for generation, sink in streams if generation.replica == replica]
        spared = [sink for generation, sink in streams if generation.replica != replica]
        pid = (await driver.statistics(replica))["pid"]
        await driver.until(lambda: all(sink.tokens for _, sink in streams))
        began_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await driver.until(lambda: all(sink.losses for sink in hit), 20)
        counted = sum(sink.tokens for sink in spared)
        await asyncio.sleep(0.5)
        went_on = sum(sink.tokens for sink in spared) > counted
    await driver.until(lambda: replica not in driver.client.channels)
    return {
        "lost_after_s": round(max(sink.lost_s for sink in hit) - began_s, 3),
        "hit": len(hit),
        "losses": sum(sink.losses for sink in hit),
        "spared_losses": sum(sink.losses for sink in spared),
        "spared_go_on": went_on,
    }


SCENARIOS: dict[str, Callable[[Driver], Coroutine[Any, Any, dict[str, Any]]]] = {
    scenario.__name__: scenario for scenario in (pinned, pace, breaks, cancels, pauses, hang, kill)
}


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(application: str, deployment: str, scenarios: list[str]) -> None:
    driver = Driver(application, deployment)
    driver.links.start()
    driver.client.start()
    await driver.until(lambda: driver.client.capacity == 200, 120)
    for name in scenarios:
        async with asyncio.timeout(150):
            result = await SCENARIOS[name](driver)
        print(json.dumps({"scenario": name, **result}), flush=True)
    await driver.client.close()
    await driver.links.close()


def main() -> None:
    application, deployment, *scenarios = sys.argv[1:]
    ray.init(namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
    try:
        asyncio.run(run(application, deployment, scenarios))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
