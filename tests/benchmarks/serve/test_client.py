"""The load client against servers that are asyncio programs in the same loop, good ones and bad ones."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import msgspec
import pytest

from benchmarks.serve.client import ClientReport, LoadClient
from benchmarks.serve.workload import DialectName, Endpoint, Workload

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WORDS = ["Once", " there", " was"]
DIGEST = hashlib.sha256("".join(WORDS).encode()).hexdigest()

Answer = Callable[[dict[str, object]], AsyncIterator[bytes]]


class FakeServer:
    """Answers each request with the bytes of `answer`; counts connections and requests."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.connections = 0
        self.bodies: list[dict[str, object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = msgspec.json.decode(await reader.readexactly(length))
                self.bodies.append(body)
                async for data in self._answer(body):
                    writer.write(data)
                    await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(cursor: int, data: bytes) -> bytes:
    return chunk(b"id: st_a:%d\ndata: %b\n\n" % (cursor, data))


def delta(cursor: int, text: str, tokens: int = 1) -> bytes:
    written = msgspec.json.encode(
        {"type": "delta", "cursor": str(cursor), "index": 0, "text": text, "tokens": tokens}
    )
    return frame(cursor, written)


START = frame(0, b'{"type":"start","cursor":"0","stream":"st_a"}')


def end(digest: str = DIGEST) -> bytes:
    written = msgspec.json.encode(
        {"type": "end", "cursor": "3", "usage": {"completion_tokens": 3}, "text_sha256": [digest]}
    )
    return frame(3, written) + b"0\r\n\r\n"


async def good(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield HEAD + START
    for index, word in enumerate(WORDS):
        yield delta(index + 1, word)
    yield end()


async def coalesced(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield HEAD + START + delta(2, "Once there", 2)
    yield delta(3, " was") + end()


async def broken(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield HEAD + START + delta(1, "Once")
    raise ConnectionResetError


async def refused(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 5\r\n\r\nlater"


async def wrong(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield HEAD + START + delta(3, "Twice", 3) + end()


async def garbage(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"


async def unreadable(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield HEAD + chunk(b"data: {not json\n\n") + b"0\r\n\r\n"


async def silent(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield HEAD + START
    await asyncio.Event().wait()


async def endless(body: dict[str, object]) -> AsyncIterator[bytes]:
    yield HEAD
    while True:
        yield delta(1, "x" * 1000)


def load(
    answer: Answer,
    workload: Workload,
    *,
    dialect: DialectName = "native",
    then: Callable[[LoadClient, FakeServer], Awaitable[None]] | None = None,
) -> tuple[ClientReport, FakeServer]:
    fake = FakeServer(answer)

    async def main() -> ClientReport:
        listener = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
        async with listener:
            endpoint = Endpoint(
                port=listener.sockets[0].getsockname()[1], path="/v1/streams", dialect=dialect, model="m"
            )
            client = LoadClient(endpoint, workload)
            await client.run()
            if then is not None:
                await then(client, fake)
            client.close()
            listener.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            return client.report()

    return asyncio.run(main()), fake


def workload(**changes: object) -> Workload:
    return msgspec.convert(
        {"clients": 2, "requests": 6, "tokens": 3, "timeout_s": 5.0, "duration_s": 20.0} | changes, Workload
    )


def test_a_closed_loop_asks_for_every_stream_once_and_keeps_its_connections() -> None:
    report, fake = load(good, workload())
    assert [sample.outcome for sample in report.samples] == ["complete"] * 6
    assert [sample.tokens for sample in report.samples] == [[1, 1, 1]] * 6
    assert [sample.delivered_tokens for sample in report.samples] == [3] * 6
    assert fake.connections == 2 and len(fake.bodies) == 6
    assert fake.bodies[0]["max_tokens"] == 3
    for sample in report.samples:
        times = [sample.due_s, sample.sent_s, *sample.arrivals_s, sample.ended_s]
        assert times == sorted(times) and len(sample.arrivals_s) == 3


def test_several_tokens_in_a_frame_and_several_frames_in_a_read() -> None:
    report, _ = load(coalesced, workload(clients=1, requests=1))
    (sample,) = report.samples
    assert (sample.outcome, sample.tokens, sample.completion_tokens) == ("complete", [2, 1], 3)


@pytest.mark.parametrize(
    ("answer", "outcome", "problem"),
    [
        (broken, "broken", "the body has no end"),
        (refused, "refused", "status 429: later"),
        (wrong, "wrong", "text_sha256"),
        (garbage, "broken", "Invalid character in chunk size"),
        (unreadable, "wrong", "can't be read"),
    ],
)
def test_bad_endings(answer: Answer, outcome: str, problem: str) -> None:
    report, _ = load(answer, workload(clients=1, requests=2))
    assert [sample.outcome for sample in report.samples] == [outcome] * 2
    assert all(sample.problem is not None and problem in sample.problem for sample in report.samples)


def test_a_stream_that_stands_still_is_given_up() -> None:
    report, _ = load(silent, workload(clients=1, requests=1, timeout_s=0.05))
    (sample,) = report.samples
    assert (sample.outcome, sample.problem) == ("timeout", "not over after 0.05 s")
    assert sample.ended_s - sample.due_s >= 0.05


def test_nobody_listens() -> None:
    async def main() -> ClientReport:
        listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        listener.close()
        await listener.wait_closed()
        client = LoadClient(Endpoint(port=port, path="/", dialect="plain"), workload(clients=1, requests=2))
        await client.run()
        return client.report()

    report = asyncio.run(main())
    assert [sample.outcome for sample in report.samples] == ["broken", "broken"]


def test_an_open_loop_has_its_own_arrival_times() -> None:
    asked = workload(clients=50, requests=50, rate_per_s=500.0, seed=3)
    first, _ = load(good, asked)
    second, _ = load(good, asked)
    assert [sample.outcome for sample in first.samples] == ["complete"] * 50

    def intervals_s(report: ClientReport) -> list[float]:
        due = [sample.due_s for sample in report.samples]
        return [later - earlier for earlier, later in pairwise(due)]

    assert intervals_s(first) == pytest.approx(intervals_s(second), abs=1e-9)
    assert len(set(intervals_s(first))) > 40
    assert 0.02 < sum(intervals_s(first)) < 0.5


def test_an_open_loop_drops_what_is_above_its_bound_and_counts_it() -> None:
    report, _ = load(silent, workload(clients=2, requests=10, rate_per_s=1000.0, timeout_s=0.3))
    assert len(report.samples) == 2 and report.dropped == 8


def test_no_stream_begins_after_the_duration() -> None:
    report, _ = load(silent, workload(clients=1, requests=100, timeout_s=0.06, duration_s=0.1))
    assert len(report.samples) == 2


def test_clients_that_never_read_hold_their_connection_until_the_end() -> None:
    seen = {}

    async def then(client: LoadClient, fake: FakeServer) -> None:
        seen["connections"] = fake.connections
        seen["stalled"] = len([body for body in fake.bodies if body["max_tokens"] == 500])

    async def answer(body: dict[str, object]) -> AsyncIterator[bytes]:
        async for data in endless(body) if body["max_tokens"] == 500 else good(body):
            yield data

    report, _ = load(answer, workload(readers_stalled=3, stalled_tokens=500), then=then)
    assert [sample.outcome for sample in report.samples] == ["complete"] * 6
    assert seen == {"connections": 5, "stalled": 3}
