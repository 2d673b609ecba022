"""A client of native streams that comes back when its connection breaks, and checks that nothing is missing or twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

PATIENCE_S = 60.0
NO_SERVER = "Internal Server Error"


@dataclass
class Reading:
    """What one client has of a stream, over all of its connections."""

    frames: list[dict[str, Any]] = field(default_factory=list)
    last_event_id: str = ""
    connections: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def stream(self) -> str:
        return self.last_event_id.partition(":")[0]

    @property
    def tokens(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> bool:
        return bool(self.frames) and self.frames[-1]["type"] in ("end", "error")

    @property
    def hashes(self) -> list[str]:
        """Of the whole text of each choice, as it was received; equal to what the end frame says, or the test fails."""
        end = self.frames[-1]
        assert end["type"] == "end", end
        found = [
            hashlib.sha256(self.texts.get(index, "").encode()).hexdigest()
            for index in range(len(end["choices"]))
        ]
        assert found == end["text_sha256"]
        assert sum(map(int, end["cursor"].split("."))) == end["usage"]["completion_tokens"] >= self.tokens
        return found

    def take(self, event_id: str, frame: dict[str, Any]) -> None:
        """Adds a frame, which must be the next one."""
        assert not self.ended, (self.frames[-1], frame)
        self.frames.append(frame)
        self.last_event_id = event_id
        if frame["type"] == "delta":
            index = frame["index"]
            cursors = [int(count) for count in frame["cursor"].split(".")]
            assert cursors[index] - frame["tokens"] == self.counts.get(index, 0), (frame, self.counts)
            self.counts[index] = cursors[index]
            self.texts[index] = self.texts.get(index, "") + frame["text"]


async def post(
    client: httpx.AsyncClient,
    fields: dict[str, Any],
    reading: Reading | None = None,
    *,
    until_tokens: int | None = None,
    headers: dict[str, str] | None = None,
) -> Reading:
    """Starts a stream and reads it, to its end or until there are so many tokens."""
    reading = reading or Reading()
    async with client.stream("POST", "/v1/streams", json=fields, headers=headers) as response:
        await _read(response, reading, until_tokens)
    return reading


async def get(
    client: httpx.AsyncClient, path: str, reading: Reading, *, until_tokens: int | None = None
) -> Reading:
    """Reads on from `path`, with the id of the last event if there is one and `path` does not name a cursor."""
    headers = {"last-event-id": reading.last_event_id} if reading.last_event_id and "?" not in path else {}
    async with client.stream("GET", path, headers=headers) as response:
        await _read(response, reading, until_tokens)
    return reading


async def follow(client: httpx.AsyncClient, stream: str, reading: Reading) -> Reading:
    """Reads the stream on to its end, over as many connections as that takes."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not reading.ended and time.monotonic() < give_up_s:
        try:
            await get(client, f"/v1/streams/{stream}/events", reading)
        except (httpx.TransportError, Unavailable):
            await asyncio.sleep(0.2)
    assert reading.ended, (stream, reading.connections, reading.frames[-1:])
    return reading


class Unavailable(Exception):
    """The server can't answer now, or HAProxy has no server: it then answers 500 in words of its own."""


async def _read(response: httpx.Response, reading: Reading, until_tokens: int | None) -> None:
    if response.status_code != 200:
        said = (await response.aread()).decode()
        if response.status_code in (502, 503) or (response.status_code, said) == (500, NO_SERVER):
            raise Unavailable(said)
        raise AssertionError((response.status_code, said))
    reading.connections += 1
    event_id = ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            reading.take(event_id, json.loads(line[6:]))
            if until_tokens is not None and reading.tokens >= until_tokens:
                return
