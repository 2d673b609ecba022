"""Reads of all readers in one process: those that come while a call runs share the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from app.streams.redis.replies import FoundStream, decode_found
from app.streams.redis.scripts import Scripts

MAX_READS = 256
"""How many reads share one call."""

_encode = msgspec.msgpack.Encoder().encode
_Question = tuple[str, Sequence[int], bool]


class SharedReads:
    def __init__(self, scripts: Scripts, process: str) -> None:
        self._scripts = scripts
        self._process = process
        self._waiting: list[tuple[_Question, asyncio.Future[FoundStream]]] = []
        self._running: asyncio.Task[None] | None = None

    async def read(self, stream: str, counts: Sequence[int], waits: bool) -> FoundStream:
        """What the stream has after `counts`. If there is nothing and the reader `waits`, the server wakes it later."""
        reply: asyncio.Future[FoundStream] = asyncio.get_running_loop().create_future()
        self._waiting.append(((stream, counts, waits), reply))
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
        return await reply

    async def close(self) -> None:
        """Returns when no call runs any more."""
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting[:MAX_READS], self._waiting[MAX_READS:]
                # The reply to a reader that was cancelled is done.
                reads = [(question, reply) for question, reply in taken if not reply.done()]
                if not reads:
                    continue
                questions = _encode([question for question, _ in reads])
                try:
                    found = decode_found(await self._scripts.run("read", self._process, questions))
                except Exception as error:
                    for _, reply in reads:
                        if not reply.done():
                            reply.set_exception(error)
                    continue
                for (_, reply), stream in zip(reads, found, strict=True):
                    if not reply.done():
                        reply.set_result(stream)
        finally:
            self._running = None
