"""What is done to a cluster, one thing after the other: each begins when the server has recovered."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from tests.campaign.losses import Losses
from tests.campaign.plan import Disturbance
from tests.integration.cluster import Cluster
from tests.integration.driver import driver
from tests.integration.redis_server import RedisServer
from tests.integration.replicas import INGRESS, healthy

STANDSTILL_S = {"generator": 6.0, "ingress": 6.0, "tokenizer": 4.0, "store": 2.0}
"""How long a stopped process stands still. The silence of a generator and of an ingress is borne for less."""
MOMENT_S = 1.0
"""What a death does to a stream begins within this time."""
RECOVERY_S = 240.0
STARTING = "initialize_and_get_metadata"
"""What the title of a replica's process ends with while it loads: the next thing must not meet a server without a warm one."""
STEADY = 4
"""So often a process is seen without it: it has another title just before, too."""
REDIS_AWAY_S = 2.0
PROMPT_TOKENS = (None, 2000)
"""The limits of two configurations."""


@dataclass(frozen=True)
class Event:
    """Something that was done from `begin_s` to `end_s`; by `recovered_s` the server had what it had before (`time.monotonic`).

    `lost`: the streams that lost their generator then.
    """

    kind: Disturbance
    begin_s: float
    end_s: float
    recovered_s: float
    lost: frozenset[str] = frozenset()


class Disturber:
    """`model` is the only one of the cluster. `redis` is its stream store, None when that is a process of the cluster."""

    def __init__(self, cluster: Cluster, model: str, redis: RedisServer | None, seed: int) -> None:
        self._cluster = cluster
        self._redis = redis
        self._source = Random(seed)
        self._losses = Losses(cluster.directory / "ray" / "session_latest" / "logs" / "serve")
        self._config = copy.deepcopy(cluster.config)
        self._args: dict[str, Any] = self._config["applications"][0]["args"]
        self._titles = {
            "generator": f"ServeReplica:streaming:Generator:{model}",
            "ingress": INGRESS,
            "tokenizer": f"ServeReplica:streaming:Tokenizer:{model}",
            "store": "ServeReplica:streaming:StreamStore",
        }
        self.events: list[Event] = []

    async def do(self, kind: Disturbance) -> None:
        """Does it, and returns when the server has recovered. Raises `AssertionError` when it does not."""
        verb, what = kind.split()
        begin_s = time.monotonic()
        if verb == "redeploy":
            await self._redeploy()
        elif what == "store" and self._redis is not None:
            await self._disturb_redis(verb, self._redis)
        elif verb == "stop":
            await self._stop(what)
        else:
            await self._kill(what)
        # Of a death, later pauses are those of the machine on which another process starts.
        end_s = begin_s + MOMENT_S if verb == "kill" else time.monotonic()
        await asyncio.sleep(MOMENT_S)
        self.events.append(Event(kind, begin_s, end_s, time.monotonic(), self._losses.fresh()))

    def processes(self) -> dict[str, list[int]]:
        """The processes of each part of the application."""
        return {what: self._cluster.processes(title) for what, title in self._titles.items()}

    async def _kill(self, what: str) -> None:
        title = self._titles[what]
        processes = sorted(self._cluster.processes(title))
        # The generator that has been there longest has the most streams.
        victim = processes[0] if what == "generator" else self._source.choice(processes)
        os.kill(victim, signal.SIGKILL)
        await self._replaced(title, len(processes), {victim})

    async def _stop(self, what: str) -> None:
        title = self._titles[what]
        processes = self._cluster.processes(title)
        victim = self._source.choice(sorted(processes))
        os.kill(victim, signal.SIGSTOP)
        await asyncio.sleep(STANDSTILL_S[what])
        os.kill(victim, signal.SIGCONT)
        await self._replaced(title, len(processes), set())

    async def _disturb_redis(self, verb: str, redis: RedisServer) -> None:
        if verb == "stop":
            redis.stand_still()
            await asyncio.sleep(STANDSTILL_S["store"])
            redis.go_on()
        else:
            redis.kill()
            await asyncio.sleep(REDIS_AWAY_S)
            await asyncio.to_thread(redis.start)
        await self._healthy()

    async def _redeploy(self) -> None:
        """`serve deploy` of a configuration with another limit and another number of generators. Serve replaces all replicas.

        It does some at a time, and HAProxy reloads. Those that go finish their streams.
        """
        before = self.processes()
        limits = self._args["limits"]
        [limits["max_prompt_tokens"]] = {*PROMPT_TOKENS} - {limits["max_prompt_tokens"]}
        [model] = self._args["models"]
        [usual] = self._cluster.config["applications"][0]["args"]["models"]
        generators = usual["max_replicas"] + (model["max_replicas"] == usual["max_replicas"])
        model["min_replicas"] = model["max_replicas"] = generators
        async with driver(self._cluster, "redeploy") as deploy:
            await deploy(self._config)
        for what, processes in before.items():
            count = generators if what == "generator" else len(processes)
            await self._replaced(self._titles[what], count, set(processes))

    async def _replaced(self, title: str, count: int, gone: set[int]) -> None:
        """Returns when there are so many processes with the title, none of them among those that are to go, and they are used."""

        def is_there() -> bool:
            processes = set(self._cluster.processes(title))
            if len(processes) != count or processes & gone or self._cluster.processes(f"{title}.{STARTING}"):
                return False
            try:
                return title != INGRESS or self._cluster.ingress_in_use() == count
            except httpx.HTTPError:
                return False

        seen = 0

        def is_replaced() -> bool:
            nonlocal seen
            seen = seen + 1 if is_there() else 0
            return seen >= STEADY

        await self._until(is_replaced, f"{title} is not there {count} times")
        await self._healthy()

    async def _healthy(self) -> None:
        give_up_s = time.monotonic() + RECOVERY_S
        while not await healthy(self._cluster):
            assert time.monotonic() < give_up_s, "the server is not healthy"
            await asyncio.sleep(0.5)

    async def _until(self, happened: Callable[[], bool], otherwise: str) -> None:
        give_up_s = time.monotonic() + RECOVERY_S
        while not happened():
            assert time.monotonic() < give_up_s, otherwise
            await asyncio.sleep(0.5)
