"""What a call and a message cost on our links, beside grpc.aio with the same bytes.

    python -m benchmarks.links [--rounds 5] [--scale 1.0]

Each transport has a client process and a server process on loopback TCP, with uvloop as in Ray Serve, and bytes that it does
not decode. Every round measures every part on both transports, one right after the other; which comes first alternates.

- Calls: 200 bytes each way, one at a time, and 32 at a time.
- Streams: one streaming call with messages of 1 KB and of 16 KB, 50 a second as a channel has them, and without a pause.
- Cancel: from the cancellation of a streaming call to the end of its handler in the server process.
- Break: from SIGKILL to the server until the client's streaming call fails.

Processor time is user and system time of the whole process (`getrusage`) per call or message; on a machine with idle cores
it has the wake-ups in it. The latency of a call is its round trip; that of a message is the way from server to client, and in a
stream without a pause the time between two messages. Every figure is the median of the rounds. So is each ratio, which is taken
within a round.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

import click
import grpc
import grpc.aio
import msgspec
import uvloop

from deployments.links.address import decode_address
from deployments.links.connection import LinkConnection, connect
from deployments.links.link import LinkBroken
from deployments.links.server import LinkServer

HOST = "127.0.0.1"
MAX_CALLS = 64
CALL_BYTES = 200
STREAM_PER_S = 50.0
TIMEOUT_S = 60.0
"""Of one part, and of the start of a process."""

REPORT = b"report"
CALL_METHOD, STREAM_METHOD = "/benchmark/call", "/benchmark/stream"

_processes = get_context("spawn")  # grpc does not survive a fork


class Report(msgspec.Struct):
    """What a server process says of itself. The clock of `ended_s` is the same in all processes of a machine."""

    pid: int
    processor_s: float
    ended_s: float


class Wanted(msgspec.Struct):
    """The request of a streaming call: messages without a pause if `per_s` is None, and an end only if not `held`."""

    messages: int
    message_bytes: int
    per_s: float | None = None
    held: bool = False


class Result(msgspec.Struct):
    """One part, one round, one transport, in microseconds. A part whose processor time says nothing has none."""

    median_us: float
    p99_us: float
    client_us: float | None
    server_us: float | None

    @property
    def processor_us(self) -> float | None:
        """Of both processes."""
        return None if self.client_us is None or self.server_us is None else self.client_us + self.server_us


class Service:
    """What the server process does on either transport. Only grpc gives a context."""

    def __init__(self) -> None:
        self._ended_s = 0.0

    async def call(self, request: bytes, context: object = None) -> bytes:
        """A `Report`, or the request itself."""
        if request == REPORT:
            return msgspec.msgpack.encode(Report(os.getpid(), processor_s(), self._ended_s))
        return request

    async def stream(self, request: bytes, context: object = None) -> AsyncGenerator[bytes, None]:
        """Messages that begin with the time at which they are sent."""
        wanted = msgspec.msgpack.decode(request, type=Wanted)
        padding = bytes(wanted.message_bytes - len(encode_time(0.0)))
        began_s = time.perf_counter()
        try:
            for number in range(wanted.messages):
                due_s = began_s + number / wanted.per_s if wanted.per_s is not None else 0.0
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                yield encode_time(time.perf_counter()) + padding
            if wanted.held:
                await asyncio.Event().wait()
        finally:
            self._ended_s = time.perf_counter()


def encode_time(now_s: float) -> bytes:
    return msgspec.msgpack.encode(now_s)


def decode_time(message: bytes) -> float:
    return msgspec.msgpack.decode(message[: len(encode_time(0.0))], type=float)


def processor_s() -> float:
    """The user and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# The two transports.


class Messages(Protocol):
    """An open streaming call."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def cancel(self) -> object: ...


class Client(Protocol):
    """One connection to a server process."""

    async def call(self, request: bytes) -> bytes: ...
    def stream(self, request: bytes) -> Messages: ...
    async def close(self) -> None: ...


class LinkClient:
    def __init__(self, connection: LinkConnection) -> None:
        self.call = connection.call
        self.stream = connection.streaming_call
        self._connection = connection

    async def close(self) -> None:
        self._connection.abort()
        await self._connection.lost


class GrpcClient:
    def __init__(self, address: bytes) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.aio.insecure_channel(address.decode(), options=options)
        self._call: Any = self._channel.unary_unary(CALL_METHOD)
        stream: Any = self._channel.unary_stream(STREAM_METHOD)
        self.stream: Callable[[bytes], Messages] = stream
        self.close = self._channel.close

    async def call(self, request: bytes) -> bytes:
        answer: bytes = await self._call(request)
        return answer


async def open_link(address: bytes) -> Client:
    return LinkClient(await connect(decode_address(address)))


async def open_grpc(address: bytes) -> Client:
    return GrpcClient(address)


async def serve_links(tell: Callable[[bytes], None]) -> None:
    """Tells its address and serves for ever."""
    service = Service()
    server = LinkServer(service.call, max_calls=MAX_CALLS, streaming_handler=service.stream)
    tell(await server.address(HOST))
    await asyncio.Event().wait()


async def serve_grpc(tell: Callable[[bytes], None]) -> None:
    """Tells its address and serves for ever."""
    service = Service()

    handlers: dict[str, Any] = {
        "call": grpc.unary_unary_rpc_method_handler(service.call),
        "stream": grpc.unary_stream_rpc_method_handler(service.stream),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("benchmark", handlers)])
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    tell(f"{HOST}:{port}".encode())
    await server.wait_for_termination()


@dataclass(frozen=True)
class Transport:
    name: str
    serve: Callable[[Callable[[bytes], None]], Coroutine[Any, Any, None]]
    open: Callable[[bytes], Awaitable[Client]]


TRANSPORTS = (Transport("links", serve_links, open_link), Transport("grpc.aio", serve_grpc, open_grpc))


# The parts. Each returns latencies in seconds.


@dataclass(frozen=True)
class Part:
    """`run` gets the number of calls or messages: `amount`, scaled."""

    title: str
    amount: int
    run: Callable[[Client, int], Awaitable[list[float]]]
    has_cost: bool = True
    kills: bool = False


async def calls(client: Client, amount: int, at_a_time: int) -> list[float]:
    request, took_s = b"x" * CALL_BYTES, []

    async def one_after_the_other() -> None:
        for _ in range(max(1, amount // at_a_time)):
            began_s = time.perf_counter()
            await client.call(request)
            took_s.append(time.perf_counter() - began_s)

    await asyncio.gather(*(one_after_the_other() for _ in range(at_a_time)))
    return took_s


async def paced_stream(client: Client, amount: int, message_bytes: int) -> list[float]:
    wanted = Wanted(amount, message_bytes, STREAM_PER_S)
    return [
        time.perf_counter() - decode_time(message)
        async for message in client.stream(msgspec.msgpack.encode(wanted))
    ]


async def full_stream(client: Client, amount: int, message_bytes: int) -> list[float]:
    times_s = [time.perf_counter()]
    async for _ in client.stream(msgspec.msgpack.encode(Wanted(amount, message_bytes))):
        times_s.append(time.perf_counter())
    return [(times_s[-1] - times_s[0]) / amount]


async def cancels(client: Client, amount: int) -> list[float]:
    took_s = []
    for _ in range(amount):
        stream = await held_stream(client)
        began_s = time.perf_counter()
        stream.cancel()
        while (ended_s := (await report(client)).ended_s) < began_s:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        took_s.append(ended_s - began_s)
    return took_s


async def kill(client: Client, _: int) -> list[float]:
    """Ends the server process."""
    server, stream = await report(client), await held_stream(client)
    os.kill(server.pid, signal.SIGKILL)
    began_s = time.perf_counter()
    try:
        await anext(aiter(stream))
    except (LinkBroken, grpc.aio.AioRpcError):
        return [time.perf_counter() - began_s]
    raise RuntimeError("The stream of a killed server goes on.")


async def held_stream(client: Client) -> Messages:
    """A streaming call that has got its first message and gets no other."""
    stream = client.stream(msgspec.msgpack.encode(Wanted(1, CALL_BYTES, held=True)))
    await anext(aiter(stream))
    return stream


async def report(client: Client) -> Report:
    return msgspec.msgpack.decode(await client.call(REPORT), type=Report)


PARTS = (
    Part("call, one at a time", 2000, partial(calls, at_a_time=1)),
    Part("call, 32 at a time", 6400, partial(calls, at_a_time=32)),
    Part("message of 1 KB, 50 a second", 150, partial(paced_stream, message_bytes=1024)),
    Part("message of 16 KB, 50 a second", 150, partial(paced_stream, message_bytes=16 * 1024)),
    Part("message of 1 KB, no pause", 6000, partial(full_stream, message_bytes=1024)),
    Part("message of 16 KB, no pause", 3000, partial(full_stream, message_bytes=16 * 1024)),
    Part("cancel", 100, cancels, has_cost=False),
    Part("break", 5, kill, has_cost=False, kills=True),
)


# The processes.


async def measure(client: Client, part: Part, amount: int) -> Result:
    """Runs `part` once, after a tenth of it as a warm-up. A part that kills has none."""
    if not part.kills:
        await part.run(client, max(1, amount // 10))
    if not part.has_cost:
        return result(await part.run(client, amount), None, None)
    server, client_s = await report(client), processor_s()
    took_s = await part.run(client, amount)
    client_s, later = processor_s() - client_s, await report(client)
    return result(took_s, 1e6 * client_s / amount, 1e6 * (later.processor_s - server.processor_s) / amount)


def result(took_s: list[float], client_us: float | None, server_us: float | None) -> Result:
    p99_s = statistics.quantiles(took_s, n=100, method="inclusive")[98] if len(took_s) > 1 else took_s[0]
    return Result(1e6 * statistics.median(took_s), 1e6 * p99_s, client_us, server_us)


def run_server(transport: int, pipe: Connection) -> None:
    """Tells its address and serves until it is killed."""
    uvloop.run(TRANSPORTS[transport].serve(pipe.send))


def run_client(transport: int, pipe: Connection) -> None:
    """Measures the parts that it is told, until it is killed. Nothing else happens in its event loop meanwhile."""

    async def main() -> None:
        while True:
            address, part, amount = pipe.recv()
            async with asyncio.timeout(TIMEOUT_S):
                client = await TRANSPORTS[transport].open(address)
                pipe.send(await measure(client, PARTS[part], amount))
                await client.close()

    uvloop.run(main())


class Worker:
    """A process and the pipe to it."""

    def __init__(self, run: Callable[[int, Connection], None], transport: int) -> None:
        self._pipe, theirs = _processes.Pipe()
        self._process = _processes.Process(target=run, args=(transport, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, message: object) -> None:
        self._pipe.send(message)

    def receive(self) -> Any:
        """The next message. Raises `EOFError` when the process has ended."""
        if not self._pipe.poll(TIMEOUT_S):
            raise TimeoutError(f"A process sent nothing for {TIMEOUT_S} s.")
        return self._pipe.recv()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Pair:
    """The client process and the server process of one transport."""

    def __init__(self, transport: int) -> None:
        self._transport = transport
        self._client, self._server = Worker(run_client, transport), Worker(run_server, transport)
        self._address: bytes = self._server.receive()

    def measure(self, part: int, scale: float) -> list[Result]:
        """One result; if the part kills the server, one for each of its servers."""
        amount = max(1, round(PARTS[part].amount * scale))
        if not PARTS[part].kills:
            return [self._measure(part, amount)]
        measured = []
        for _ in range(amount):
            measured.append(self._measure(part, 1))
            self._server.close()
            self._server = Worker(run_server, self._transport)
            self._address = self._server.receive()
        return measured

    def _measure(self, part: int, amount: int) -> Result:
        self._client.send((self._address, part, amount))
        measured: Result = self._client.receive()
        return measured

    def close(self) -> None:
        self._client.close()
        self._server.close()


def compare(rounds: int, scale: float) -> list[list[list[Result]]]:
    """The results of each part and transport, in the order of the rounds."""
    results: list[list[list[Result]]] = [[[] for _ in TRANSPORTS] for _ in PARTS]
    with ExitStack() as stack:
        pairs = []
        for transport in range(len(TRANSPORTS)):
            pairs.append(Pair(transport))
            stack.callback(pairs[-1].close)
        for number in range(rounds):
            order = list(range(len(pairs)))[:: 1 if number % 2 == 0 else -1]
            for part in range(len(PARTS)):
                for transport in order:
                    results[part][transport] += pairs[transport].measure(part, scale)
    return results


def rows(results: list[list[list[Result]]]) -> Iterator[list[str]]:
    """The table, its head first: for each part and transport a median, and the ratio of the second transport to the first."""
    names = [transport.name for transport in TRANSPORTS]
    yield [
        "µs, medians of the rounds",
        *(f"{name}: client + server" for name in names),
        "ratio",
        *(f"{name}: latency p50, p99" for name in names),
        "ratio of p50",
    ]
    for part, (first, second) in zip(PARTS, results, strict=True):
        yield [
            part.title,
            *(cost(each) for each in (first, second)),
            ratio([each.processor_us for each in first], [each.processor_us for each in second]),
            *(latency(each) for each in (first, second)),
            ratio([each.median_us for each in first], [each.median_us for each in second]),
        ]


def cost(results: list[Result]) -> str:
    client = [each.client_us for each in results if each.client_us is not None]
    server = [each.server_us for each in results if each.server_us is not None]
    return f"{statistics.median(client):.0f} + {statistics.median(server):.0f}" if client else ""


def latency(results: list[Result]) -> str:
    medians, p99s = [each.median_us for each in results], [each.p99_us for each in results]
    return f"{statistics.median(medians):.0f}, {statistics.median(p99s):.0f}"


def ratio(first: Sequence[float | None], second: Sequence[float | None]) -> str:
    ratios = [b / a for a, b in zip(first, second, strict=True) if a and b]
    return f"{statistics.median(ratios):.1f}" if ratios else ""


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--scale", default=1.0, show_default=True, help="Multiplies the number of calls and messages.")
def main(rounds: int, scale: float) -> None:
    for number, row in enumerate(rows(compare(rounds, scale))):
        click.echo(f"| {' | '.join(row)} |")
        if number == 0:
            click.echo("|" + ":--|" * len(row))


if __name__ == "__main__":
    main()
