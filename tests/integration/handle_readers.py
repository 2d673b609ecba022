"""Reads a stream for each request in a JSON list on stdin, through handles, all at the same time. Prints the hashes of each."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import ray
from ray import serve

from tests.integration.driver import CONNECTED
from tests.integration.sse_client import Reading

Requests = list[dict[str, Any]]
Hashes = list[list[str]]


async def _read_all(calls: Any, requests: Requests) -> Hashes:
    async def read(fields: dict[str, Any]) -> list[str]:
        reading = Reading()
        async for frame in calls.remote(fields):
            reading.take("", frame)
        return reading.hashes

    return list(await asyncio.gather(*(read(fields) for fields in requests)))


def main() -> None:
    ray.init(namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
    try:
        handle: Any = serve.get_app_handle("streaming")
        print(CONNECTED, flush=True)
        hashes = asyncio.run(_read_all(handle.generate.options(stream=True), json.load(sys.stdin)))
        print(json.dumps(hashes), flush=True)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
