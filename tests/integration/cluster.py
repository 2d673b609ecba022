"""A server in processes of its own: `serve run` with a configuration, on ports that nobody uses, gone without trace afterwards.

Every process that it starts inherits a mark in its environment. So what is left of it can be found and ended by process id,
whatever became of its parents: HAProxy, for one, outlives a Ray that was killed.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parents[2]
MARK = "STREAMING_INFERENCE_TEST_CLUSTER"
START_TIMEOUT_S = 240.0
START_ATTEMPTS = 3
STOP_TIMEOUT_S = 30.0
PORTS = range(20_000, 29_000)
"""Below those of outgoing connections, and between those that Ray and Serve take for workers and replicas."""
# What Ray and Serve say when their own limits were too short for a busy machine: 30 s for a node, 60 s for its proxy.
TOO_SLOW = ("The current node timed out during startup", "SERVE_PROXY_ACTOR")


class Cluster:
    """`serve run` of one configuration. `environment` lets other programs reach its Ray."""

    def __init__(self, config: dict[str, Any], **environment: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="st-"))  # short: Ray puts sockets in it
        self.config = with_own_ports(config)
        self.base_url = f"http://127.0.0.1:{self.config['http_options']['port']}"
        self.grpc_address = f"127.0.0.1:{self.config.get('grpc_options', {}).get('port')}"
        self._mark = secrets.token_hex(8)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(self.directory),
            "RAY_USAGE_STATS_ENABLED": "0",
            MARK: self._mark,
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.directory / "serve.log").read_text(errors="replace")

    def start(self) -> None:
        """Returns when the server says that it could start a stream. Raises `RuntimeError` with the log when it doesn't.

        What gave up because the machine is busy gets another chance or two.
        """
        until_s = time.monotonic() + START_TIMEOUT_S
        for _ in range(START_ATTEMPTS):
            process = self._launch()
            while process.poll() is None and time.monotonic() < until_s:
                if self._ready():
                    return
                time.sleep(0.5)
            if not any(words in self.log for words in TOO_SLOW):
                break
            self._end_all()
        raise RuntimeError(f"the server did not start:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """Ends the server, gracefully if it lets us, and everything that belongs to it. Idempotent."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        self._end_all()
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def ray_address(self) -> str:
        """Where the cluster's Ray is, as its raylet was told. `auto` may find another one on this machine."""
        [raylet] = self.processes("--raylet_socket_name=")[:1]
        [address] = re.findall(r"--gcs-address=(\S+)", command_line(raylet))[:1]
        return str(address)

    @property
    def variables(self) -> dict[str, str]:
        """Of Serve's processes; none in its default mode."""
        options = self.config.get("controller_options", {"runtime_env": {"env_vars": {}}})
        variables: dict[str, str] = options["runtime_env"]["env_vars"]
        return variables

    def processes(self, title: str = "") -> list[int]:
        """The ids of the cluster's processes whose command line contains `title`."""
        return [pid for pid in marked(self._mark) if title in command_line(pid)]

    def haproxy_servers(self) -> list[dict[str, str]]:
        """A row of HAProxy's statistics for each server of each of its backends. Raises `httpx.HTTPError`."""
        return [row for row in self._haproxy_statistics() if row["svname"] not in ("FRONTEND", "BACKEND")]

    def connections(self) -> int:
        """How many connections HAProxy has to servers at this moment. Raises `httpx.HTTPError`."""
        return sum(int(row["scur"] or 0) for row in self.haproxy_servers())

    def ingress_in_use(self) -> int:
        """How many ingress processes HAProxy would send a request to. Raises `httpx.HTTPError`."""
        return sum(
            row["pxname"].startswith("http-")
            and "Ingress" in row["svname"]
            and row["status"].startswith("UP")
            for row in self.haproxy_servers()
        )

    def _haproxy_statistics(self) -> list[dict[str, str]]:
        port = self.variables["RAY_SERVE_HAPROXY_STATS_PORT"]
        text = httpx.get(f"http://127.0.0.1:{port}/stats;csv", timeout=5).text.removeprefix("# ")
        return list(csv.DictReader(text.splitlines()))

    def _launch(self) -> subprocess.Popen[bytes]:
        path = self.directory / "serve_config.yaml"
        path.write_text(yaml.safe_dump(self.config, sort_keys=False))
        command = [str(Path(sys.executable).with_name("serve")), "run", str(path)]
        with (self.directory / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        return self._process

    def _ready(self) -> bool:
        """Whether it answers, through HAProxy if that is used: until that knows all ingress processes, a Python proxy answers."""
        try:
            if httpx.get(f"{self.base_url}/health", timeout=5).status_code != 200:
                return False
            if not self.variables:
                return True
            wanted = self.config["applications"][0]["args"].get("ingress", {}).get("replicas", 1)
            return self.ingress_in_use() >= int(wanted)
        except httpx.HTTPError:
            return False

    def _end_all(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._end_processes(number):
                return

    def _end_processes(self, number: signal.Signals) -> bool:
        """Signals what is left and gives it two seconds. True when something is left after that."""
        for pid in marked(self._mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until_s = time.monotonic() + 2
        while marked(self._mark) and time.monotonic() < until_s:
            time.sleep(0.1)
        return bool(marked(self._mark))


def marked(mark: str) -> list[int]:
    """The processes that have this mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def with_own_ports(config: dict[str, Any]) -> dict[str, Any]:
    """`config` on free ports, so that no server on this machine, living or left over, is in the way."""
    http, grpc, stats, metrics, fallback_http, fallback_grpc = free_ports(6)
    variables_of_tests = {
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback_http,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": fallback_grpc,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 0,
    }
    own = {**config, "http_options": {**config["http_options"], "port": http}}
    if "grpc_options" in config:
        own["grpc_options"] = {**config["grpc_options"], "port": grpc}
    if "controller_options" in config:
        variables = config["controller_options"]["runtime_env"]["env_vars"]
        as_text = {name: str(value) for name, value in variables_of_tests.items()}
        own["controller_options"] = {"runtime_env": {"env_vars": {**variables, **as_text}}}
    return own


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, and that the system gives to nobody who asks for any port."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no port is free")


def shipped_config() -> dict[str, Any]:
    """The configuration that users start with."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    return config
