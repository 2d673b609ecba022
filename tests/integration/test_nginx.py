"""Streams through a real nginx with Debian's default configuration: nothing is buffered, and silence does not cut a stream."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.cluster import Cluster, free_ports
from tests.integration.conftest import SILENT, SIMULATED

# nginx closes a proxied connection after so much silence by default (proxy_read_timeout).
NGINX_IDLE_S = 60.0


def configuration(directory: Path, port: int, upstream: str) -> str:
    """Debian's own file with paths of the test in it, and one site that passes everything on."""
    text = Path("/etc/nginx/nginx.conf").read_text()
    for path, name in (
        ("/run/nginx.pid", "nginx.pid"),
        ("/var/log/nginx/error.log", "error.log"),
        ("/var/log/nginx/access.log", "access.log"),
        ("/etc/nginx/sites-enabled/*", "site.conf"),
    ):
        assert path in text, f"nginx's default configuration has no {path}"
        text = text.replace(path, str(directory / name))
    site = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}"
    (directory / "site.conf").write_text(site)
    return text.replace("include /etc/nginx/modules-enabled/*.conf;", "").replace("user www-data;", "")


@pytest.fixture(scope="module")
def proxy(server: Cluster) -> Iterator[str]:
    """The address of an nginx in front of the server."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert program is not None, "these tests need nginx (make system)"
    directory = Path(tempfile.mkdtemp(prefix="nginx-"))
    [port] = free_ports(1)
    path = directory / "nginx.conf"
    path.write_text(configuration(directory, port, server.base_url))
    process = subprocess.Popen([program, "-p", str(directory), "-c", str(path), "-g", "daemon off;"])
    try:
        for _ in range(100):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


class Silence:
    """A stream whose first token comes after more silence than nginx allows, read in a thread while other tests run."""

    def __init__(self, proxy: str) -> None:
        self.lines: list[str] = []
        self.failure: Exception | None = None
        self._proxy = proxy
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        body = {"model": SILENT, "prompt": "x", "max_tokens": 3}
        try:
            with httpx.stream("POST", f"{self._proxy}/v1/streams", json=body, timeout=120) as response:
                self.lines = list(response.iter_lines())
        except httpx.HTTPError as error:
            self.failure = error

    def join(self) -> None:
        self._thread.join(150)


@pytest.fixture(scope="module")
def silence(proxy: str) -> Iterator[Silence]:
    silence = Silence(proxy)
    yield silence
    silence.join()


def arrivals(address: str, body: dict[str, Any]) -> list[float]:
    """When each delta came, in seconds."""
    found = []
    with httpx.stream("POST", f"{address}/v1/streams", json=body, timeout=60) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: ") and '"type":"delta"' in line:
                found.append(time.monotonic())
    return found


def test_each_token_passes_at_its_time(proxy: str, silence: Silence) -> None:
    times = arrivals(proxy, {"model": SIMULATED, "prompt": "x", "max_tokens": 50})
    gaps = [later - earlier for earlier, later in pairwise(times)]
    # A proxy that buffers hands everything over at the end. One token every 20 ms takes a second, in many small gaps.
    assert len(times) >= 40
    assert times[-1] - times[0] > 0.8
    assert sum(gap > 0.005 for gap in gaps) > 30


def test_a_stream_that_is_silent_for_longer_than_nginx_allows_lives(silence: Silence) -> None:
    silence.join()
    assert silence.failure is None
    beats = [line for line in silence.lines if line.startswith(":")]
    assert len(beats) >= NGINX_IDLE_S / 10 - 1
    assert any('"type":"end"' in line for line in silence.lines)
