"""Prints what the ingress processes and the generators of the test cluster hold, as JSON: a list for each.

    python -m tests.campaign.statistics_of MODEL INGRESSES GENERATORS

INGRESSES and GENERATORS are how many processes there are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import ray
from ray import serve

from deployments.ingress.handle_options import handle_options
from deployments.ingress.replicas import directory_of

APPLICATION = "streaming"
PATIENCE_S = 60.0

Statistics = dict[str, float]


async def of_generators(model: str, count: int) -> list[Statistics]:
    deployment = f"Generator:{model}"
    handle: Any = serve.get_deployment_handle(deployment, APPLICATION)
    ask = handle.options(method_name="statistics", **handle_options())
    await ask.remote()  # from here on the directory is kept
    directory = directory_of(APPLICATION, deployment)
    while len(directory.replicas) != count:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return [await ask.options(session_id=replica).remote() for replica in sorted(directory.replicas)]


async def of_ingresses(count: int) -> list[Statistics]:
    handle: Any = serve.get_deployment_handle("Ingress", APPLICATION)
    ask = handle.options(method_name="statistics", **handle_options())
    found: dict[float, Statistics] = {}
    while len(found) < count:
        answer = await ask.remote()
        found[answer["pid"]] = answer
    return list(found.values())


async def collect(model: str, ingresses: int, generators: int) -> dict[str, list[Statistics]]:
    async with asyncio.timeout(PATIENCE_S):
        return {
            "ingress": await of_ingresses(ingresses),
            "generator": await of_generators(model, generators),
        }


def main() -> None:
    model, ingresses, generators = sys.argv[1:]
    ray.init(namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
    try:
        print(json.dumps(asyncio.run(collect(model, int(ingresses), int(generators)))))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
