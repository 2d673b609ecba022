"""Tasks end with what started them."""

from __future__ import annotations

import asyncio

from app.tasks import Tasks


def test_what_runs_is_kept_until_it_ends() -> None:
    async def main() -> None:
        tasks, gate = Tasks(), asyncio.Event()

        async def work() -> None:
            await gate.wait()

        task = tasks.start(work())
        assert len(tasks) == 1
        gate.set()
        await task
        await asyncio.sleep(0)
        assert len(tasks) == 0 and not tasks.closed

    asyncio.run(main())


def test_cancel_ends_what_runs_and_nothing_begins_after_it() -> None:
    async def main() -> None:
        tasks, begun = Tasks(), []

        async def work(name: str) -> None:
            begun.append(name)
            await asyncio.Event().wait()

        tasks.start(work("before"))
        await asyncio.sleep(0)
        tasks.cancel()
        tasks.start(work("after"))
        await tasks.ended()
        assert begun == ["before"] and tasks.closed and len(tasks) == 0

    asyncio.run(main())
