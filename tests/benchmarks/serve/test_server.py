"""Starting, waiting and stopping: real processes that behave badly."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.serve import procfs, server
from benchmarks.serve.server import ServerFailed, free_port, health_problem, is_taken, running

# Ignores every polite signal and has a child in a session of its own, as HAProxy is after a forced stop of Ray.
STUBBORN = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
with open(sys.argv[1], "a") as file:
    print(os.getpid(), file=file)
while True:
    time.sleep(60)
"""
OBLIGING = """
import sys, time
try:
    print("up", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("interrupted")
"""


def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    waiting = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        waiting.wait(0.02)
    raise AssertionError("it never came")


def test_nothing_is_left_of_a_server_that_does_not_want_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "INTERRUPT_WAIT_S", 0.1)
    monkeypatch.setattr(server, "TERMINATE_WAIT_S", 0.1)
    file = tmp_path / "pids"
    file.touch()
    with running([sys.executable, "-c", STUBBORN, str(file)], ports=[]) as started:
        until(lambda: len(file.read_text().split()) == 2)
        pids = [int(pid) for pid in file.read_text().split()]
        assert {key.pid for key in started.snapshot().processes} == set(pids)
    assert [pid for pid in pids if procfs.read_process(pid) is not None] == []


def test_a_server_is_asked_to_go_by_an_interrupt(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with running([sys.executable, "-c", OBLIGING, str(said)], ports=[]) as started:
        until(lambda: "up" in started.log_tail())
    assert said.read_text() == "interrupted"


def test_a_server_that_ends_at_once_says_why() -> None:
    with (
        pytest.raises(ServerFailed, match=r"(?s)status 3.*out of cheese"),
        running([sys.executable, "-c", "print('out of cheese'); raise SystemExit(3)"], ports=[]) as started,
    ):
        started.wait_until_healthy(free_port(), "/health", 20)


def test_a_server_that_never_answers() -> None:
    with (
        pytest.raises(ServerFailed, match=r"not healthy after 0\.1 s: ConnectionRefusedError"),
        running([sys.executable, "-c", "import time; time.sleep(60)"], ports=[]) as started,
    ):
        started.wait_until_healthy(free_port(), "/health", 0.1)


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"ok" if self.path == "/health" else b"not now"
        self.send_response(200 if self.path == "/health" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not to the test's output."""


def test_health_and_taken_ports() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as listener:
        port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert is_taken(port)
        assert health_problem(port, "/health") is None
        assert health_problem(port, "/elsewhere") == "status 503: not now"
        with (
            pytest.raises(ServerFailed, match=f"in use already: port {port}"),
            running(["true"], ports=[port]),
        ):
            raise AssertionError("it must not start")
        listener.shutdown()
        thread.join()
    assert not is_taken(port) and "ConnectionRefusedError" in (health_problem(port, "/health") or "")
