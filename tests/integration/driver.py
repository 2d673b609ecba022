"""A program of the tests that is a driver in the cluster of a server: `redeploy`, `handle_readers`.

It prints `CONNECTED` when all that takes long is over, reads JSON from stdin, does what it is for and prints what comes of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.integration.cluster import ROOT, Cluster

CONNECTED = "connected"


@asynccontextmanager
async def driver(server: Cluster, name: str) -> AsyncIterator[Callable[[Any], Awaitable[bytes]]]:
    """The program, connected. The function gives it its input and returns what it prints; it can be called once."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"tests.integration.{name}"),
        cwd=ROOT,
        env={**server.environment, "RAY_ADDRESS": server.ray_address},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )

    async def run(request: Any) -> bytes:
        printed, _ = await process.communicate(json.dumps(request).encode())
        assert process.returncode == 0
        return printed

    try:
        assert process.stdout is not None
        while (line := await process.stdout.readline()).decode().strip() != CONNECTED:
            assert line, f"{name} has not connected"
        yield run
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
