"""One request on one connection, with the time at which each of its deltas arrived.

The time is taken once for each read, before the bytes are parsed. A connection carries one exchange at a time; the
exchange's `done` resolves exactly once: with the last byte, a malformed response or the loss of the connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import perf_counter
from typing import cast

import msgspec

from benchmarks.serve.dialects import Dialect
from benchmarks.serve.response import MalformedResponse, ResponseParser
from benchmarks.serve.samples import Outcome, StreamSample
from benchmarks.serve.workload import Endpoint, Workload

# Of a client that never reads: as small as the kernel allows, so that backpressure begins early.
STALLED_RECEIVE_BUFFER_BYTES = 4_096


class Exchange:
    """A request for `tokens` tokens, due at `due_s`, and what was received for it."""

    def __init__(self, tokens: int, due_s: float, done: asyncio.Future[None]) -> None:
        self.asked_tokens = tokens
        self.due_s = due_s
        self.sent_s = due_s
        self.ended_s = due_s
        self.arrivals_s: list[float] = []
        self.tokens: list[int] = []
        self.events: list[bytes] = []
        self.outcome: Outcome = "complete"
        self.problem: str | None = None
        self.response = ResponseParser()
        self.done = done
        self._over = False

    def end(self, outcome: Outcome, problem: str | None = None) -> None:
        """Ends the exchange. Only the first call has an effect."""
        if self._over:
            return
        self._over = True
        self.ended_s = perf_counter()
        self.outcome = outcome
        self.problem = problem
        # A time limit around `await done` cancels it.
        if not self.done.done():
            self.done.set_result(None)

    def sample(self, dialect: Dialect, workload: Workload) -> StreamSample:
        """The sample of an exchange that has ended. Reads every event of a complete stream, so call it after the load."""
        outcome, problem, completion_tokens = self.outcome, self.problem, None
        if outcome == "complete":
            try:
                verdict = dialect.verdict(self.events, workload, self.asked_tokens)
            except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
                outcome, problem = "wrong", f"can't be read: {error!r}"
            else:
                completion_tokens = verdict.completion_tokens
                outcome, problem = (
                    ("complete", None) if verdict.problem is None else ("wrong", verdict.problem)
                )
        return StreamSample(
            due_s=self.due_s,
            sent_s=self.sent_s,
            ended_s=self.ended_s,
            outcome=outcome,
            arrivals_s=self.arrivals_s,
            tokens=self.tokens,
            problem=problem,
            completion_tokens=completion_tokens,
        )


class Connection(asyncio.Protocol):
    """A connection that counts the tokens of its exchanges with `tokens_in`."""

    def __init__(self, tokens_in: Callable[[bytes], int]) -> None:
        self._tokens_in = tokens_in
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._exchange is None

    def send(self, request: bytes, exchange: Exchange) -> None:
        """Starts `exchange`. Its `done` resolves when it ends, whatever the outcome."""
        assert self._transport is not None and self._exchange is None
        self._exchange = exchange
        exchange.sent_s = perf_counter()
        self._transport.write(request)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now_s = perf_counter()
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return
        try:
            events = exchange.response.feed(data)
        except MalformedResponse as error:
            self._end("broken", str(error))
            self.abort()
            return
        for event in events:
            exchange.events.append(event)
            tokens = self._tokens_in(event)
            if tokens:
                exchange.arrivals_s.append(now_s)
                exchange.tokens.append(tokens)
        if exchange.response.complete:
            self._completed(exchange)

    def connection_lost(self, error: Exception | None) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.response.end_of_input():
            self._completed(exchange)
        else:
            self._end("broken", f"the connection was lost: {error!r}" if error else "the body has no end")

    def _completed(self, exchange: Exchange) -> None:
        response = exchange.response
        if response.status == 200:
            self._end("complete")
        else:
            body = response.error_body[:200].decode(errors="replace")
            self._end("refused", f"status {response.status}: {body}")
        if not response.keep_alive:
            self.abort()

    def _end(self, outcome: Outcome, problem: str | None = None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.end(outcome, problem)


class StalledConnection(asyncio.Protocol):
    """Sends its request and never reads."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.pause_reading()
        stream.write(self._request)


def request_bytes(endpoint: Endpoint, body: dict[str, object]) -> bytes:
    """An HTTP/1.1 POST of `body` as JSON."""
    payload = msgspec.json.encode(body)
    head = (
        f"POST {endpoint.path} HTTP/1.1\r\n"
        f"Host: {endpoint.host}:{endpoint.port}\r\n"
        "Content-Type: application/json\r\n"
        "Accept: text/event-stream\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode("ascii") + payload


async def connect(endpoint: Endpoint, tokens_in: Callable[[bytes], int]) -> Connection:
    """A new connection. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(tokens_in), endpoint.host, endpoint.port)
    return connection


async def connect_stalled(endpoint: Endpoint, request: bytes) -> asyncio.BaseTransport:
    """A connection that has sent `request` and never reads; the caller closes it. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    connector = socket.socket(family, socket.SOCK_STREAM)
    try:
        connector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_RECEIVE_BUFFER_BYTES)
        connector.setblocking(False)
        await loop.sock_connect(connector, (endpoint.host, endpoint.port))
        transport, _ = await loop.create_connection(lambda: StalledConnection(request), sock=connector)
    except BaseException:
        connector.close()
        raise
    return transport
