"""A server as a subprocess: started in a session of its own, awaited, and stopped with all of its processes.

Every process that came from it is ended by its id and start time, including those that outlive their parent (after a forced
stop of Ray its HAProxy continues and holds its ports). Whatever happens inside `running`, no process remains.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic, sleep

from benchmarks.serve import procfs
from benchmarks.serve.accounting import Snapshot, take_snapshot
from benchmarks.serve.procfs import ProcessKey

MARKER_VARIABLE = "STREAMING_INFERENCE_BENCH"
POLL_S = 0.2
INTERRUPT_WAIT_S = 25.0
TERMINATE_WAIT_S = 5.0
KILL_WAIT_S = 5.0
HEALTH_TIMEOUT_S = 5.0
HEALTH_BODY_BYTES = 300
LOG_TAIL_BYTES = 3_000


class ServerFailed(Exception):
    """The server did not start, or its ports are in use; the message says why and ends with the server's last output."""


class Server:
    """A running server. `start_s` is the time from its command to its first healthy answer."""

    def __init__(self, process: subprocess.Popen[bytes], marker: str, log: Path) -> None:
        self._process = process
        self._marker = marker
        self._log = log
        self._known: set[ProcessKey] = set()
        self.start_s = 0.0

    def snapshot(self) -> Snapshot:
        """All processes of the server now."""
        snapshot = take_snapshot(self._process.pid, self._marker)
        self._known.update(snapshot.processes)
        return snapshot

    def wait_until_healthy(self, port: int, path: str, timeout_s: float) -> None:
        """Returns at the first 200 of `path`. Raises `ServerFailed` when the server ends or takes longer than `timeout_s`."""
        begun_s = monotonic()
        while (problem := health_problem(port, path)) is not None:
            if self._process.poll() is not None:
                raise ServerFailed(
                    f"the server ended with status {self._process.returncode}\n{self.log_tail()}"
                )
            if monotonic() - begun_s > timeout_s:
                raise ServerFailed(f"not healthy after {timeout_s:g} s: {problem}\n{self.log_tail()}")
            sleep(POLL_S)
        self.start_s = monotonic() - begun_s

    def log_tail(self) -> str:
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def stop(self) -> None:
        """Interrupts the server and waits; then ends the remaining processes by force."""
        self.snapshot()
        # SIGINT is the only signal upon which `serve run` shuts down in order.
        self._signal([key for key in self._known if key.pid == self._process.pid], signal.SIGINT)
        self._wait(INTERRUPT_WAIT_S)
        for stop_signal, wait_s in ((signal.SIGTERM, TERMINATE_WAIT_S), (signal.SIGKILL, KILL_WAIT_S)):
            self.snapshot()
            if left := procfs.still_alive(self._known):
                self._signal(left, stop_signal)
                self._wait(wait_s)
        self._process.wait(timeout=KILL_WAIT_S)

    def _wait(self, timeout_s: float) -> None:
        deadline_s = monotonic() + timeout_s
        while monotonic() < deadline_s:
            self._process.poll()
            if not procfs.still_alive(self._known):
                return
            sleep(POLL_S)

    @staticmethod
    def _signal(keys: Sequence[ProcessKey], number: signal.Signals) -> None:
        for key in procfs.still_alive(keys):
            with contextlib.suppress(ProcessLookupError):
                os.kill(key.pid, number)


@contextlib.contextmanager
def running(
    command: Sequence[str], *, ports: Sequence[int], environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Starts `command` and stops it at the end. Raises `ServerFailed` when one of `ports` is in use."""
    if taken := [port for port in ports if is_taken(port)]:
        raise ServerFailed(f"in use already: port {', '.join(map(str, taken))}")
    marker = f"{MARKER_VARIABLE}={uuid.uuid4().hex}"
    variables = dict(os.environ) | (environment or {}) | dict([marker.split("=", 1)])
    with tempfile.TemporaryDirectory(prefix="streaming-inference-bench-") as directory:
        log = Path(directory) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
        server = Server(process, marker, log)
        try:
            yield server
        finally:
            server.stop()


def health_problem(port: int, path: str) -> str | None:
    """Why the server on `port` is not healthy; None when it answers a GET of `path` with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(HEALTH_BODY_BYTES).decode(errors="replace")
        return None if response.status == 200 else f"status {response.status}: {body}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


def is_taken(port: int) -> bool:
    """Whether a process on this machine listens on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
