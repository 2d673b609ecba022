"""The load client: a process of its own, so that its CPU time is not the server's.

`python -m benchmarks.serve.client` reads one JSON line (`Assignment`), writes `ready`, waits for `go`, runs the load, writes
`done`, keeps its stalled connections until `close`, then checks what it received and writes its report. It ends when its
standard input ends. Every loop ends at the workload's deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import resource
import sys
from pathlib import Path
from time import perf_counter

import msgspec

from benchmarks.serve.connection import (
    Connection,
    Exchange,
    connect,
    connect_stalled,
    request_bytes,
)
from benchmarks.serve.dialects import DIALECTS
from benchmarks.serve.samples import StreamSample
from benchmarks.serve.workload import Endpoint, Workload


class Assignment(msgspec.Struct, frozen=True):
    """The load of one client process; it writes its `ClientReport` as msgpack to `report_path`."""

    endpoint: Endpoint
    workload: Workload
    report_path: str


class ClientReport(msgspec.Struct, frozen=True):
    """What one client process saw. `cpu_s` is its own CPU time during the load."""

    samples: list[StreamSample]
    dropped: int
    cpu_s: float


class LoadClient:
    """Runs one workload against one endpoint. `report` after `run`; `close` closes the connections of clients that never read."""

    def __init__(self, endpoint: Endpoint, workload: Workload) -> None:
        self._endpoint = endpoint
        self._workload = workload
        self._dialect = DIALECTS[endpoint.dialect]
        self._exchanges: list[Exchange] = []
        self._stalled: list[asyncio.BaseTransport] = []
        self._begun = 0
        self._dropped = 0
        self._cpu_s = 0.0

    async def run(self) -> None:
        """Returns when every request is over, or at the workload's deadline."""
        cpu_before_s = _own_cpu_s()
        for number in range(self._workload.readers_stalled):
            request = self._request(number, self._workload.stalled_tokens)
            self._stalled.append(await connect_stalled(self._endpoint, request))
        load = (
            self._closed_loop()
            if self._workload.rate_per_s is None
            else self._open_loop(self._workload.rate_per_s)
        )
        try:
            async with asyncio.timeout(self._workload.deadline_s):
                await load
        except TimeoutError:
            for exchange in self._exchanges:
                exchange.end("timeout", "the load was over")
        self._cpu_s = _own_cpu_s() - cpu_before_s

    def close(self) -> None:
        for transport in self._stalled:
            transport.close()
        self._stalled.clear()

    def report(self) -> ClientReport:
        samples = [exchange.sample(self._dialect, self._workload) for exchange in self._exchanges]
        return ClientReport(samples, self._dropped, self._cpu_s)

    async def _closed_loop(self) -> None:
        workload, begun_s = self._workload, perf_counter()

        async def client(index: int) -> None:
            await asyncio.sleep(workload.ramp_s * index / workload.clients)
            connection: Connection | None = None
            while self._begun < workload.requests and perf_counter() - begun_s < workload.duration_s:
                connection = await self._exchange(self._next_number(), perf_counter(), connection)
            if connection is not None:
                connection.abort()

        async with asyncio.TaskGroup() as group:
            for index in range(workload.clients):
                group.create_task(client(index))

    async def _open_loop(self, rate_per_s: float) -> None:
        workload = self._workload
        draw = random.Random(workload.seed)
        begun_s = perf_counter()
        due_s = begun_s
        running: set[asyncio.Task[None]] = set()

        async def single(number: int, due_s: float) -> None:
            connection = await self._exchange(number, due_s, None)
            if connection is not None:
                connection.abort()

        async with asyncio.TaskGroup() as group:
            while self._begun + self._dropped < workload.requests:
                due_s += draw.expovariate(rate_per_s)
                if due_s - begun_s > workload.duration_s:
                    break
                await asyncio.sleep(max(0.0, due_s - perf_counter()))
                if len(running) >= workload.clients:
                    self._dropped += 1
                    continue
                task = group.create_task(single(self._next_number(), due_s))
                running.add(task)
                task.add_done_callback(running.discard)

    def _next_number(self) -> int:
        self._begun += 1
        return self._begun - 1

    async def _exchange(self, number: int, due_s: float, connection: Connection | None) -> Connection | None:
        """One request to its end. Returns the connection when it can carry another request."""
        workload = self._workload
        exchange = Exchange(workload.tokens, due_s, asyncio.get_running_loop().create_future())
        self._exchanges.append(exchange)
        try:
            async with asyncio.timeout(workload.timeout_s):
                if connection is None or not connection.usable:
                    connection = await connect(self._endpoint, self._dialect.tokens_in)
                connection.send(self._request(number, workload.tokens), exchange)
                await exchange.done
        except TimeoutError:
            exchange.end("timeout", f"not over after {workload.timeout_s:g} s")
        except OSError as error:
            exchange.end("broken", f"no connection: {error}")
        if connection is None or connection.usable:
            return connection
        connection.abort()
        return None

    def _request(self, number: int, tokens: int) -> bytes:
        return request_bytes(
            self._endpoint, self._dialect.body(self._endpoint, self._workload, number, tokens)
        )


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _converse(assignment: Assignment) -> ClientReport:
    loop = asyncio.get_running_loop()
    client = LoadClient(assignment.endpoint, assignment.workload)
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "go":
        raise SystemExit("told to end before the load")
    # A garbage collection during the load would look like jitter of the server.
    gc.collect()
    gc.disable()
    await client.run()
    print("done", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    client.close()
    return client.report()


def main() -> None:
    """The main program of the client process."""
    assignment = msgspec.json.decode(sys.stdin.readline(), type=Assignment)
    runner = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        runner = uvloop.run
    report = runner(_converse(assignment))
    Path(assignment.report_path).write_bytes(msgspec.msgpack.encode(report))


if __name__ == "__main__":
    main()
