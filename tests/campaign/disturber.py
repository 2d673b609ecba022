"""What is done to the processes of a cluster, one thing after the other: each begins when the server has recovered."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.campaign.plan import Disturbance
from tests.integration.cluster import Cluster
from tests.integration.replicas import INGRESS, replaced

STANDSTILL_S = 6.0
"""How long a stopped generator stands still: longer than its silence is borne."""


@dataclass(frozen=True)
class Event:
    """Something that was done, and when the server had recovered from it (`time.monotonic`)."""

    kind: Disturbance
    begin_s: float
    end_s: float


class Disturber:
    """`titles`: how many processes of each title there are when all is well."""

    def __init__(self, cluster: Cluster, model: str, seed: int) -> None:
        self._cluster = cluster
        self._source = Random(seed)
        generator = f"ServeReplica:streaming:Generator:{model}"
        tokenizer = f"ServeReplica:streaming:Tokenizer:{model}"
        self._titles: dict[Disturbance, str] = {
            "kill generator": generator,
            "stop generator": generator,
            "kill ingress": INGRESS,
            "kill tokenizer": tokenizer,
        }
        self.events: list[Event] = []

    async def run(self, plan: Iterator[tuple[float, Disturbance]], until_s: float) -> None:
        """Does what is planned, until the moment `until_s`. Raises `AssertionError` when something is not replaced."""
        for pause_s, kind in plan:
            if time.monotonic() + pause_s > until_s:
                return
            await asyncio.sleep(pause_s)
            await self._do(kind)

    async def _do(self, kind: Disturbance) -> None:
        title = self._titles[kind]
        processes = sorted(self._cluster.processes(title))
        victim = self._source.choice(processes)
        begin_s = time.monotonic()
        if kind == "stop generator":
            os.kill(victim, signal.SIGSTOP)
            await asyncio.sleep(STANDSTILL_S)
            os.kill(victim, signal.SIGCONT)
            event = Event(kind, begin_s, time.monotonic())
        else:
            os.kill(victim, signal.SIGKILL)
            event = Event(kind, begin_s, begin_s + 1.0)
            await replaced(self._cluster, title, len(processes), victim)
        self.events.append(event)
