"""Driving a `send` from synchronous code. Whole responses are in `test_stream_response.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.types import Message

from app.asgi.outlet import Outlet
from tests.fakes.clock import settle
from tests.fakes.loop import run

MESSAGE: Message = {"type": "test"}


class Line:
    """An outlet, and what it has said."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.gate = asyncio.Event()
        self.outlet = Outlet(
            reader_stall_timeout_s=30,
            on_free=lambda: self.heard.append("free"),
            on_stalled=lambda: self.heard.append("stalled"),
        )

    def drive(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self.outlet.drive(send, MESSAGE, lambda: self.heard.append("written"))

    async def at_once(self, message: Message) -> None:
        self.heard.append("sent")

    async def waits(self, message: Message) -> None:
        await self.gate.wait()
        await asyncio.sleep(1)
        self.heard.append("sent")

    async def fails(self, message: Message) -> None:
        await self.gate.wait()
        raise ValueError("broken")


def live(test: Callable[[Line], Awaitable[None]]) -> None:
    async def main() -> None:
        line = Line()
        await test(line)
        line.outlet.close()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_send_that_does_not_wait_is_over_before_drive_returns() -> None:
    async def test(line: Line) -> None:
        line.drive(line.at_once)
        assert line.heard == ["sent", "written"] and line.outlet.free

    live(test)


def test_a_send_that_waits_is_finished_by_a_task() -> None:
    async def test(line: Line) -> None:
        line.drive(line.waits)
        await settle()
        seen = [(list(line.heard), line.outlet.free)]
        line.gate.set()
        for wait_s in (2, 60):  # the second for the stall timer, which must have been stopped
            await asyncio.sleep(wait_s)
            seen.append((list(line.heard), line.outlet.free))
        assert seen == [([], False), *[(["sent", "written", "free"], True)] * 2]

    live(test)


def test_a_send_that_waits_too_long_ends_it() -> None:
    async def test(line: Line) -> None:
        line.drive(line.waits)
        await line.outlet.over
        assert asyncio.get_running_loop().time() == 30
        assert line.heard == ["stalled"] and not line.outlet.free

    live(test)


def test_a_failure_ends_it() -> None:
    async def test(line: Line) -> None:
        line.drive(line.fails)
        line.gate.set()
        with pytest.raises(ValueError, match="broken"):
            await line.outlet.over
        assert not line.outlet.free

    live(test)


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_a_client_that_went_away_is_no_failure(error: Exception | None) -> None:
    async def test(line: Line) -> None:
        line.outlet.end(error)
        line.outlet.end(ValueError("too late"))
        await line.outlet.over
        assert not line.outlet.free

    live(test)


def test_what_waits_is_given_up_at_the_close() -> None:
    async def test(line: Line) -> None:
        line.drive(line.waits)
        await settle()
        line.outlet.close()
        line.gate.set()
        await asyncio.sleep(60)
        assert line.heard == []

    live(test)
