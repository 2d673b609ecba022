"""A campaign: the load, the disturbances and the check, on a cluster of its own."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.campaign.clients import Clients
from tests.campaign.disturber import Disturber
from tests.campaign.oracle import violations
from tests.campaign.plan import Call, Plan
from tests.campaign.record import Record
from tests.campaign.report import Report
from tests.integration.cluster import Cluster, shipped_config

MODEL = "storyteller"


def campaign_config() -> dict[str, Any]:
    """The shipped configuration with two generators, of the real engine in float32, and two ingress processes."""
    config = shipped_config()
    args = config["applications"][0]["args"]
    args["models"][0] |= {
        "min_replicas": 2,
        "max_replicas": 2,
        "cpus_per_replica": 0.2,
        "dtype": "float32",
        "threads": 1,
    }
    args["ingress"] = {"replicas": 2}
    args["streams"]["replica_wait_s"] = 60  # a replica takes longer to start on a busy machine
    return config


async def run(cluster: Cluster, seed: int, duration_s: float, streams: int) -> Report:
    """Keeps `streams` streams running for `duration_s`, disturbs them, and waits for the end of the last."""
    plan = Plan(seed, model=MODEL)
    clients = Clients(cluster.base_url, cluster.grpc_address)
    disturber = Disturber(cluster, MODEL, seed)
    results: list[tuple[Call, Record | str]] = []
    try:
        undisturbed = [
            await clients.read(Call(number, "sse"), fields) for number, fields in enumerate(plan.requests)
        ]
        until_s = time.monotonic() + duration_s
        calls = plan.calls()

        async def work() -> None:
            while time.monotonic() < until_s:
                call = next(calls)
                try:
                    results.append((call, await clients.read(call, plan.requests[call.request])))
                except Exception as error:
                    results.append((call, f"{type(error).__name__}: {error}"))

        await asyncio.gather(disturber.run(plan.disturbances(), until_s), *(work() for _ in range(streams)))
    finally:
        await clients.close()
    report = Report(seed, duration_s)
    report.disturbances.update(event.kind for event in disturber.events)
    for call, record in results:
        if isinstance(record, str):
            report.add(call, Record(), [record], [])
        else:
            report.add(call, record, violations(record, undisturbed[call.request]), disturber.events)
    return report
