"""A headless Chromium that a test sends to a page, through chromedriver's HTTP interface (W3C WebDriver)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from types import TracebackType
from typing import Any, Self

import httpx

from tests.integration.cluster import free_ports

OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
START_TIMEOUT_S = 60.0


class Browser:
    """Starts with the context and is gone after it, with all its processes and its profile."""

    async def __aenter__(self) -> Self:
        driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
        assert driver and chromium, "these tests need chromium and chromium-driver (make system)"
        [port] = free_ports(1)
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._process = await asyncio.create_subprocess_exec(
            driver,
            f"--port={port}",
            env={**os.environ, "TMPDIR": self._profile},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=START_TIMEOUT_S)
        try:
            await self._open_session(chromium)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self._client.delete(self._session)
        await self._close()

    async def visit(self, url: str) -> None:
        """Returns when the page has loaded."""
        await self._post("/url", {"url": url})

    async def evaluate(self, expression: str) -> Any:
        """What the page's JavaScript says."""
        return await self._post("/execute/sync", {"script": f"return {expression};", "args": []})

    async def _open_session(self, chromium: str) -> None:
        options = {"binary": chromium, "args": [*OPTIONS, f"--user-data-dir={self._profile}/profile"]}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options}
        self._session = ""
        for _ in range(100):
            with contextlib.suppress(httpx.ConnectError):
                await self._client.get("/status")
                break
            await asyncio.sleep(0.1)
        answer = await self._post("/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{answer['sessionId']}"

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self._client.post(self._session + path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]

    async def _close(self) -> None:
        await self._client.aclose()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)
