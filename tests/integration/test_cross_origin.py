"""Pages of other origins in Chromium: a listed one uses the server by fetch and EventSource, another one can't."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.integration.browser import Browser
from tests.integration.cluster import Cluster
from tests.integration.conftest import LISTED_PORT, SIMULATED
from tests.integration.cutting_proxy import CuttingProxy

SOURCES = Path(__file__).parent / "eventsource"
PAGES = {"/": SOURCES / "cross_origin.html", "/cross_origin.js": SOURCES / "cross_origin.js"}
PATIENCE_S = 60.0


async def seen_by_page(server: Cluster, port: int | None = None) -> dict[str, dict[str, Any]]:
    """What a page that is loaded from another port (None: one that is not listed) gets of the server."""
    async with (
        CuttingProxy(server.base_url, PAGES, [], port) as pages,
        Browser() as browser,
        asyncio.timeout(PATIENCE_S),
    ):
        query = urlencode({"server": server.base_url, "model": SIMULATED})
        await browser.visit(f"{pages.origin}/?{query}")
        seen: dict[str, dict[str, Any]] | None = None
        while seen is None:
            await asyncio.sleep(0.2)
            seen = await browser.evaluate("window.seen")
        return seen


def test_a_page_of_a_listed_origin_streams_by_fetch_and_by_event_source(server: Cluster) -> None:
    seen = asyncio.run(seen_by_page(server, LISTED_PORT))
    print(f"\n{seen}")
    chunks, events = seen["chunks"], seen["events"]
    assert chunks["done"] and chunks["reads"] > 1 and chunks["stream"].startswith("st_")
    assert events["types"][0] == "start" and events["types"][-1] == "end" and len(events["types"]) > 3
    assert seen["refused"] == {"status": 400, "param": "n"}
    assert seen["cancelled"] == {"status": 200, "state": "ended", "location": True}


def test_a_page_of_another_origin_gets_nothing(server: Cluster) -> None:
    seen = asyncio.run(seen_by_page(server))
    assert seen == {key: {"failed": "TypeError"} for key in ("chunks", "events", "refused", "cancelled")}
