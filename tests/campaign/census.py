"""What a server holds when no client is there: places, memory, connections, files. After a campaign it must be as before."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.campaign.disturber import Disturber
from tests.integration.cluster import ROOT, Cluster

PATIENCE_S = 120.0
"""For streams that nobody reads any more: longer than `streams.grace_s`."""
HELD = ("running", "waiting", "paused", "kv_tokens_used", "jobs", "produced", "followed", "sequences")
"""Of the statistics, what a server without streams has none of."""
MEMORY_SHARE, MEMORY_MIB = 1.25, 64
FILES = 32
"""By how much a process may have more memory and files than one of its kind had: caches and pools fill."""


@dataclass(frozen=True)
class Census:
    """`held`: the sums of `HELD` over all processes. `memory_mib` and `files`: the most that one process of each part has.

    `connections` and `proxies`: what HAProxy has open, and its processes: an old one stays while it has connections.
    """

    held: dict[str, int]
    memory_mib: dict[str, int]
    files: dict[str, int]
    connections: int
    proxies: int

    def differences(self, before: Census) -> list[str]:
        """What is more than it was, in words."""
        found = [f"{count} {name} are left" for name, count in self.held.items() if count]
        found += [
            f"a process of the part {what} has {mib} MiB, and had {before.memory_mib[what]}"
            for what, mib in self.memory_mib.items()
            if mib > before.memory_mib[what] * MEMORY_SHARE + MEMORY_MIB
        ]
        found += [
            f"a process of the part {what} has {count} files open, and had {before.files[what]}"
            for what, count in self.files.items()
            if count > before.files[what] + FILES
        ]
        if self.connections > before.connections:
            found.append(f"{self.connections} connections are open, and {before.connections} were")
        if self.proxies > before.proxies:
            found.append(f"{self.proxies} processes of HAProxy are left, and {before.proxies} were there")
        return found

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def census_of(cluster: Cluster, disturber: Disturber, model: str) -> Census:
    """Raises `RuntimeError` when the statistics can't be had."""
    processes = disturber.processes()
    statistics = await _statistics(cluster, model, len(processes["ingress"]), len(processes["generator"]))
    every = [each for parts in statistics.values() for each in parts]
    parts = {what: pids for what, pids in processes.items() if pids}
    return Census(
        held={name: sum(int(each.get(name, 0)) for each in every) for name in HELD},
        memory_mib={what: max(map(_memory_mib, pids)) for what, pids in parts.items()},
        files={what: max(map(_files, pids)) for what, pids in parts.items()},
        connections=cluster.connections(),
        proxies=len(cluster.processes("haproxy -")),
    )


async def settled(cluster: Cluster, disturber: Disturber, model: str, before: Census) -> Census:
    """The census when there are no differences to `before`, at the latest after `PATIENCE_S`.

    Raises `RuntimeError` when the statistics can't be had even then.
    """
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        is_over = time.monotonic() > give_up_s
        with suppress(*(() if is_over else (RuntimeError, OSError, httpx.HTTPError))):
            census = await census_of(cluster, disturber, model)
            if is_over or not census.differences(before):
                return census
        await asyncio.sleep(1.0)


async def _statistics(
    cluster: Cluster, model: str, ingresses: int, generators: int
) -> dict[str, list[dict[str, float]]]:
    asking = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.campaign.statistics_of", model, str(ingresses), str(generators)),
        cwd=ROOT,
        env={**cluster.environment, **cluster.variables, "RAY_ADDRESS": cluster.ray_address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await asking.communicate()
    if asking.returncode != 0:
        raise RuntimeError(complaints.decode())
    found: dict[str, list[dict[str, float]]] = json.loads(said)
    return found


def _memory_mib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
