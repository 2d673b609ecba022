"""One load: client processes that start together, and the moments right before and right after the load.

The client processes are ready before the first moment and read nothing after the second, so that only the load lies between
the two. They are always ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

import benchmarks
from benchmarks.serve.client import Assignment, ClientReport
from benchmarks.serve.samples import StreamSample
from benchmarks.serve.workload import Endpoint, Workload

START_TIMEOUT_S = 60.0
REPORT_TIMEOUT_S = 120.0

T = TypeVar("T")


class LoadFailed(Exception):
    """A client process ended or did not answer; the message has the expected word."""


class Load(msgspec.Struct, Generic[T], frozen=True):
    """What the clients saw, their CPU time, and the results of `moment` before and after."""

    samples: list[StreamSample]
    dropped: int
    client_cpu_s: float
    before: T
    after: T


def run_load(endpoint: Endpoint, workload: Workload, *, processes: int, moment: Callable[[], T]) -> Load[T]:
    """Runs `workload` from `processes` client processes and calls `moment` right before and right after it.

    Clients that never read still hold their connections at the second moment. Raises `LoadFailed`.
    """
    processes = min(processes, workload.clients)
    with tempfile.TemporaryDirectory(prefix="streaming-inference-load-") as directory:
        paths = [Path(directory) / f"report-{index}" for index in range(processes)]
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(_client_process()) for _ in paths]
            for index, (client, path) in enumerate(zip(clients, paths, strict=True)):
                share = workload.share(index, processes)
                _say(client, msgspec.json.encode(Assignment(endpoint, share, str(path))))
            _await_all(clients, b"ready", START_TIMEOUT_S)
            before = moment()
            for client in clients:
                _say(client, b"go")
            _await_all(clients, b"done", workload.deadline_s + START_TIMEOUT_S)
            after = moment()
            for client in clients:
                _say(client, b"close")
            for client in clients:
                client.wait(timeout=REPORT_TIMEOUT_S)
            reports = [msgspec.msgpack.decode(path.read_bytes(), type=ClientReport) for path in paths]
    return Load(
        samples=[sample for report in reports for sample in report.samples],
        dropped=sum(report.dropped for report in reports),
        client_cpu_s=sum(report.cpu_s for report in reports),
        before=before,
        after=after,
    )


@contextlib.contextmanager
def _client_process() -> Iterator[subprocess.Popen[bytes]]:
    variables = dict(os.environ) | {"PYTHONPATH": str(benchmarks.ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serve.client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=variables,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def _say(client: subprocess.Popen[bytes], line: bytes) -> None:
    assert client.stdin is not None
    try:
        client.stdin.write(line + b"\n")
    except BrokenPipeError as error:
        raise LoadFailed(f"a client process ended with status {client.poll()}") from error


def _await_all(clients: list[subprocess.Popen[bytes]], word: bytes, timeout_s: float) -> None:
    for client in clients:
        assert client.stdout is not None
        readable, _, _ = select.select([client.stdout], [], [], timeout_s)
        said = client.stdout.readline().strip() if readable else b""
        if said != word:
            raise LoadFailed(f"a client process said {said!r} where {word!r} was due, status {client.poll()}")
