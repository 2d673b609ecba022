"""A real redis-server for tests: on a free port of the loopback, with its files in a folder of its own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.integration.cluster import free_ports

START_S = 10.0


class RedisServer:
    """A server that keeps what it confirmed (`appendfsync always`), so that it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is missing: `make system` installs it")
        [self.port] = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "loglevel": "warning",
        }
        self._command = [
            program,
            *(word for name, value in options.items() for word in (f"--{name}", str(value))),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, with what its folder has of it; returns when it answers."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        give_up_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-server ended with {self._process.returncode}")
            if time.monotonic() > give_up_s:
                self.kill()
                raise RuntimeError(f"redis-server does not answer after {START_S:.0f} s")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: it finishes nothing and closes no connection."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stand_still(self) -> None:
        """SIGSTOP: its connections stay, and it replies no more."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
