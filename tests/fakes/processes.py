"""Two ingress processes over fake generators that share a stream store, and clients that talk HTTP with them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from app.asgi.application import build_app
from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from tests.fakes.clock import FakeClock, settle
from tests.fakes.exchange import Exchange, frames_of
from tests.fakes.generator import FakeGeneration, FakeGenerator, FakeTokenizer

RETENTION_S = 20.0
UNKNOWN = "st_" + "0" * 32
SETTINGS = Settings.model_validate({"models": [{"name": "letters"}]})


class Ingress:
    """One process: the application over a fake generator."""

    def __init__(self, name: str, clock: FakeClock, store: MemoryStreamStore) -> None:
        self.generator = FakeGenerator(capacity=100)
        model = Model(SETTINGS.models[0], FakeTokenizer(max_model_len_tokens=2000), self.generator)
        self.service = GenerationService(SETTINGS, {"letters": model}, store, ingress=name, clock=clock)
        self.app = build_app(self.service)
        self.running = asyncio.ensure_future(self.service.run())

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class World:
    """Two processes and their stream store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStreamStore(StoreBounds(lease_s=3.0, retention_s=RETENTION_S), self.clock)
        self.first = Ingress("i1", self.clock, self.store)
        self.second = Ingress("i2", self.clock, self.store)
        self.exchanges: list[Exchange] = []

    @property
    def generation(self) -> FakeGeneration:
        """The last one that the first process has asked for."""
        return self.first.generator.generations[-1]

    def ask(self, method: str, target: str, *, at: Ingress | None = None, **more: Any) -> Exchange:
        exchange = Exchange((at or self.first).app, method, target, **more)
        self.exchanges.append(exchange)
        return exchange

    async def answer(self, method: str, target: str, **more: Any) -> Exchange:
        return await self.ask(method, target, **more).done()

    async def start(self, *, headers: dict[str, str] | None = None, **fields: Any) -> str:
        """The id of a new stream that nobody reads yet."""
        body = {"prompt": "hi", "seed": 1, "detach": True, **fields}
        exchange = await self.answer("POST", "/v1/streams", json_body=body, headers=headers)
        assert exchange.status == 202, exchange.body
        stream_id = exchange.json()["stream"]
        assert isinstance(stream_id, str)
        return stream_id

    async def ended(self, text: str = "abcde", **fields: Any) -> str:
        """The id of a stream that has ended and that nobody has read."""
        stream_id = await self.start(**fields)
        self.generation.say(text, finish="length")
        await settle()
        return stream_id

    async def close(self) -> None:
        for ingress in (self.first, self.second):
            await ingress.close()
        for exchange in self.exchanges:
            await exchange.leave()


def live(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await test(world)
        await world.close()
        await settle()
        assert not world.first.generator.running and not world.second.generator.running

    asyncio.run(main())


def events(stream_id: str) -> str:
    return f"/v1/streams/{stream_id}/events"


def at(stream_id: str, cursor: object) -> dict[str, str]:
    """The headers of an EventSource that comes back."""
    return {"Last-Event-ID": f"{stream_id}:{cursor}"}


def kinds(exchange: Exchange) -> list[str]:
    return [frame["type"] for frame in exchange.frames]


def text(frames: Iterable[dict[str, Any]], index: int = 0) -> str:
    return "".join(frame["text"] for frame in frames if frame["type"] == "delta" and frame["index"] == index)


def error_code(exchange: Exchange) -> str:
    code = exchange.json()["error"]["code"]
    assert isinstance(code, str)
    return code


def complete_events(body: bytes) -> bytes:
    end = body.rfind(b"\n\n")
    return b"" if end < 0 else body[: end + 2]


def last_event_id(body: bytes) -> str:
    return body[body.rfind(b"id: ") + 4 :].split(b"\n")[0].decode()


async def recorded(world: World, n: int, tokens: int) -> tuple[str, list[str], bytes]:
    """A stream of `tokens` tokens in each choice, its texts, and its response as it came live, in small pieces."""
    stream_id = await world.start(n=n)
    reading = world.ask("GET", events(stream_id))
    await settle()
    draw = random.Random(n)
    texts = ["".join(draw.choices('abcdefghij \n"', k=tokens)) for _ in range(n)]
    begins = [0] * n
    while open_choices := [index for index in range(n) if begins[index] < tokens]:
        index = draw.choice(open_choices)
        end = begins[index] + draw.randint(1, 2 * n + 1)
        finish = "length" if end >= tokens else None
        world.generation.say(texts[index][begins[index] : end], choice=index, finish=finish)  # type: ignore[arg-type]
        begins[index] = end
        await asyncio.sleep(0)
    return stream_id, texts, (await reading.done()).body


def check_union(texts: list[str], *connections: bytes) -> None:
    """Together the connections have the start, every token once and in order, and the end with the hash of the text."""
    frames = [frame for body in connections for frame in frames_of(body)]
    assert [frame["type"] for frame in frames].count("start") == 1
    counts = [0] * len(texts)
    for frame in frames:
        if frame["type"] == "delta":
            counts[frame["index"]] += frame["tokens"]
            assert frame["cursor"] == ".".join(map(str, counts))
    assert [text(frames, index) for index in range(len(texts))] == texts
    assert frames[-1]["type"] == "end"
    assert frames[-1]["text_sha256"] == [hashlib.sha256(said.encode()).hexdigest() for said in texts]
