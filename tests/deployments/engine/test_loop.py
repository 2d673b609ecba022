"""The engine's thread, driven by an engine that the tests command. No test sleeps: each waits for what it
needs to happen.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from app.errors import GeneratorUnavailable, InvalidRequest, Overloaded
from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, Steering, TokenBatch
from deployments.engine.config import EngineConfig
from deployments.engine.loop import MAX_BROKEN_STEPS, SWITCH_INTERVAL_S, EngineLoop
from deployments.engine.protocol import EngineStatistics, Outputs
from deployments.engine.simulated import SimulatedEngine


class CommandedEngine:
    """Gives each stream one token in each step, for as many steps as `permits` has been released."""

    vocab_size = 10
    max_model_len_tokens = 10
    max_sequences = 4
    deterministic = True

    def __init__(self) -> None:
        self.progress: Callable[[], None] = lambda: None
        self.calls: list[tuple[str, str, int]] = []
        self.streams: dict[tuple[str, int], int] = {}
        self.paused: set[tuple[str, int]] = set()
        self.permits = threading.Semaphore(0)
        self.stepping = threading.Event()
        self.begun = 0
        self.threads: set[int] = set()
        self.prepared: list[tuple[int, int]] = []
        self.healthy = True
        self.refusal: Exception | None = None
        self.command_breaks = False
        self.breaks = False
        self.fail_all_breaks = False

    @property
    def has_work(self) -> bool:
        return bool(set(self.streams) - self.paused)

    def note(self, name: str, ingress: str, key: int) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append((name, ingress, key))

    def add(self, job: Job) -> None:
        self.note("add", job.ingress, job.key)
        if self.refusal is not None:
            raise self.refusal
        self.streams[(job.ingress, job.key)] = 0

    def abort(self, ingress: str, key: int) -> None:
        self.note("abort", ingress, key)
        if self.command_breaks:
            raise RuntimeError("the engine broke")
        self.streams.pop((ingress, key), None)

    def end(self, ingress: str, key: int, choice: int) -> None:
        self.note(f"end {choice}", ingress, key)

    def pause(self, ingress: str, key: int) -> None:
        self.note("pause", ingress, key)
        self.paused.add((ingress, key))

    def resume(self, ingress: str, key: int) -> None:
        self.note("resume", ingress, key)
        self.paused.discard((ingress, key))

    def steer(self, ingress: str, key: int, steering: Steering) -> None:
        self.note(f"steer {steering.id}", ingress, key)

    def next_step_s(self) -> float | None:
        return 0.0 if self.has_work else None

    def step(self) -> Outputs:
        self.begun += 1
        self.stepping.set()
        self.permits.acquire()
        if self.breaks:
            raise RuntimeError("the engine broke")
        outputs: Outputs = {}
        for ingress, key in self.streams:
            if (ingress, key) not in self.paused:
                batch = TokenBatch(key, 0, self.streams[(ingress, key)], [7])
                outputs.setdefault(ingress, []).append(batch)
                self.streams[(ingress, key)] += 1
        return outputs

    def prepare(self, job: Job) -> None:
        self.prepared.append((threading.get_ident(), job.key))

    def fail_all(self, message: str) -> Outputs:
        if self.fail_all_breaks:
            raise RuntimeError("nothing works")
        streams, self.streams = self.streams, {}
        outputs: Outputs = {}
        for ingress, key in streams:
            outputs.setdefault(ingress, []).append(TokenBatch(key, 0, 0, [], "error", error=message))
        return outputs

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            running=len(self.streams),
            waiting=0,
            paused=len(self.paused),
            queue_s=0.0,
            kv_tokens_used=0,
            kv_tokens_total=0,
            steps=0,
            preemptions=0,
            generated_tokens=0,
            failed_steps=0,
            divergences=0,
        )


class Desk:
    """A loop over a commanded engine, and what it delivered."""

    def __init__(self) -> None:
        self.engine = CommandedEngine()
        self.delivered: asyncio.Queue[Outputs] = asyncio.Queue()
        self.now = 0.0
        self.loop = EngineLoop(
            self.engine, self.delivered.put_nowait, step_timeout_s=3.0, clock=lambda: self.now
        )

    async def next(self) -> Outputs:
        self.engine.permits.release()
        return await asyncio.wait_for(self.delivered.get(), 10)


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    desk = Desk()
    desk.loop.start()
    try:
        yield desk
    finally:
        desk.engine.permits.release(100)
        desk.loop.stop(10)
        assert not desk.loop.healthy


def with_desk(test: Callable[[Desk], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_desk() as desk:
            await test(desk)

    interval = sys.getswitchinterval()
    try:
        asyncio.run(main())
    finally:
        sys.setswitchinterval(interval)


def make_job(key: int, ingress: str = "a", n: int = 1) -> Job:
    return Job(ingress=ingress, key=key, prompt=[1], sampling=SamplingParams(max_tokens=5), n=n)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the other thread run until the condition holds; ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  (a thread changes it, not a task)
            await asyncio.sleep(0)


def test_each_step_is_delivered_in_one_call_on_the_event_loop() -> None:
    async def test(desk: Desk) -> None:
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        desk.loop.add(make_job(2, "a"))
        desk.loop.add(make_job(3, "b"))
        assert await desk.next() == {"a": [TokenBatch(1, 0, 0, [7])]}
        assert await desk.next() == {
            "a": [TokenBatch(1, 0, 1, [7]), TokenBatch(2, 0, 0, [7])],
            "b": [TokenBatch(3, 0, 0, [7])],
        }
        assert desk.engine.threads == {desk.loop._thread.ident}
        assert sys.getswitchinterval() <= SWITCH_INTERVAL_S

    with_desk(test)


def test_jobs_are_accepted_and_refused_while_a_step_runs() -> None:
    """A step that takes long, as that of a long prompt does: no caller waits for it."""

    async def test(desk: Desk) -> None:
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        desk.loop.add(make_job(2, n=2))
        with pytest.raises(InvalidRequest):
            desk.loop.add(msgspec.structs.replace(make_job(3), prompt=[10]))
        with pytest.raises(InvalidRequest):
            desk.loop.add(make_job(2))
        with pytest.raises(Overloaded):
            desk.loop.add(make_job(3, n=2))
        desk.loop.add(make_job(3))
        with pytest.raises(Overloaded):
            desk.loop.add(make_job(4))
        desk.loop.abort("a", 2)
        desk.loop.add(make_job(4, n=2))
        assert [call[0] for call in desk.engine.calls] == ["add"]
        assert desk.loop.healthy
        await desk.next()
        await until(lambda: len(desk.engine.calls) == 5)
        assert [(call[0], call[2]) for call in desk.engine.calls[1:]] == [
            ("add", 2),
            ("add", 3),
            ("abort", 2),
            ("add", 4),
        ]

    with_desk(test)


def test_a_stream_that_ends_makes_room() -> None:
    async def test(desk: Desk) -> None:
        for key in range(4):
            desk.loop.add(make_job(key))
        with pytest.raises(Overloaded):
            desk.loop.add(make_job(9))
        while len(desk.engine.calls) < 4:
            await desk.next()
        desk.engine.breaks = True
        while (await desk.next())["a"][0].finish is None:
            pass
        desk.engine.breaks = False
        for key in range(4):
            desk.loop.add(make_job(key))
        with pytest.raises(Overloaded):
            desk.loop.add(make_job(9))

    with_desk(test)


def test_an_ending_of_an_aborted_stream_frees_no_place_of_the_next_with_its_key() -> None:
    async def test(desk: Desk) -> None:
        for key in range(4):
            desk.loop.add(make_job(key))
        steps = 0
        while len(desk.engine.calls) < 4:
            await desk.next()
            steps += 1
        await until(lambda: desk.engine.begun == steps + 1)
        desk.loop.abort("a", 3)
        desk.loop.add(make_job(3))
        desk.engine.breaks = True
        while (await desk.next())["a"][0].finish is None:
            pass
        desk.engine.breaks = False
        assert desk.loop._held.places == 1

    with_desk(test)


@pytest.mark.parametrize("refusal", [Overloaded("no", retry_after_s=1), RuntimeError("a detail")])
def test_an_accepted_job_that_the_engine_does_not_take_ends_alone(
    refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(desk: Desk) -> None:
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        desk.engine.refusal = refusal
        desk.loop.add(
            msgspec.structs.replace(make_job(2, n=3), generated=[[5], [], [6]], finished=[True, False, False])
        )
        await desk.next()
        batches = (await desk.next())["a"]
        ended = [(batch.key, batch.choice, batch.position) for batch in batches if batch.finish == "error"]
        assert ended == [(2, 1, 0), (2, 2, 1)]
        assert [batch.key for batch in batches if batch.finish is None] == [1]
        assert "detail" not in str(batches)
        assert desk.loop.healthy

    with_desk(test)


def test_a_command_that_breaks_the_engine_ends_the_streams() -> None:
    async def test(desk: Desk) -> None:
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        desk.engine.command_breaks = True
        desk.loop.abort("a", 7)
        await desk.next()
        ((batch,),) = (await desk.next()).values()
        assert (batch.key, batch.finish) == (1, "error")
        assert desk.loop.healthy

    with_desk(test)


def test_commands_are_obeyed_in_order_and_before_the_next_step() -> None:
    async def test(desk: Desk) -> None:
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        desk.loop.pause("a", 1)
        desk.loop.resume("a", 1)
        desk.loop.steer("a", 1, Steering("s", [7]))
        desk.loop.end("a", 1, 2)
        desk.loop.abort("a", 1)
        await desk.next()
        await until(lambda: len(desk.engine.calls) == 6)
        assert [call[0] for call in desk.engine.calls] == [
            "add",
            "pause",
            "resume",
            "steer s",
            "end 2",
            "abort",
        ]
        await until(lambda: desk.loop.statistics().running == 0)
        assert desk.delivered.empty()

    with_desk(test)


def test_the_thread_sleeps_while_all_is_paused_and_wakes_for_a_command() -> None:
    async def test(desk: Desk) -> None:
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        desk.loop.pause("a", 1)
        await desk.next()
        await until(lambda: desk.loop.statistics().paused == 1)
        desk.engine.stepping.clear()
        desk.now += 100
        await until(lambda: desk.loop.healthy)
        assert not desk.engine.stepping.is_set()
        desk.loop.resume("a", 1)
        assert await desk.next() == {"a": [TokenBatch(1, 0, 1, [7])]}

    with_desk(test)


def test_a_step_that_hangs_makes_the_loop_unhealthy_and_its_end_heals_it() -> None:
    async def test(desk: Desk) -> None:
        assert desk.loop.healthy
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        healthy = []
        for pause_s in (2.9, 0.2):
            desk.now += pause_s
            healthy.append(desk.loop.healthy)
        assert healthy == [True, False]
        await desk.next()
        await until(lambda: desk.loop.healthy)

    with_desk(test)


def test_an_engine_that_is_not_healthy_makes_the_loop_unhealthy() -> None:
    async def test(desk: Desk) -> None:
        desk.engine.healthy = False
        assert not desk.loop.healthy

    with_desk(test)


def test_an_engine_that_breaks_ends_its_streams_and_serves_on() -> None:
    async def test(desk: Desk) -> None:
        desk.engine.breaks = True
        for count in range(1, MAX_BROKEN_STEPS + 1):
            desk.loop.add(make_job(count))
            ((batch,),) = (await desk.next()).values()
            assert batch.finish == "error"
            assert batch.error and "broke" not in batch.error
            assert desk.loop.healthy == (count < MAX_BROKEN_STEPS)
        desk.engine.breaks = False
        desk.loop.add(make_job(9))
        assert await desk.next() == {"a": [TokenBatch(9, 0, 0, [7])]}
        await until(lambda: desk.loop.healthy)

    with_desk(test)


def test_a_thread_that_dies_ends_every_stream_and_refuses_what_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also those that it has accepted and not looked at."""

    async def test(desk: Desk) -> None:
        desk.engine.breaks = desk.engine.fail_all_breaks = True
        desk.loop.add(make_job(1, n=2))
        desk.engine.stepping.wait(10)
        desk.loop.add(make_job(2, "b"))
        outputs = await desk.next()
        assert [(batch.key, batch.choice, batch.finish) for batch in outputs["a"]] == [
            (1, 0, "error"),
            (1, 1, "error"),
        ]
        assert [(batch.key, batch.finish) for batch in outputs["b"]] == [(2, "error")]
        assert not desk.loop.healthy
        with pytest.raises(GeneratorUnavailable):
            desk.loop.add(make_job(3))
        desk.loop.abort("a", 1)

    with caplog.at_level(logging.ERROR):
        with_desk(test)
    assert "thread ends" in caplog.text


def test_stop_ends_the_thread_after_its_step_and_can_be_repeated() -> None:
    async def test(desk: Desk) -> None:
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)
        desk.engine.permits.release()
        desk.loop.stop(10)
        desk.loop.stop(10)
        assert not desk.loop._thread.is_alive()
        with pytest.raises(GeneratorUnavailable):
            desk.loop.add(make_job(2))

    with_desk(test)


def test_a_loop_that_never_started_is_not_healthy_and_stops() -> None:
    desk = Desk()
    assert not desk.loop.healthy
    desk.loop.stop()


def test_a_closed_event_loop_ends_the_thread() -> None:
    desk = Desk()
    interval = sys.getswitchinterval()

    async def main() -> None:
        desk.loop.start()
        desk.loop.add(make_job(1))
        desk.engine.stepping.wait(10)

    asyncio.run(main())
    sys.setswitchinterval(interval)
    desk.engine.permits.release()
    desk.loop._thread.join(10)
    assert not desk.loop._thread.is_alive()


def test_a_simulated_engine_runs_at_its_pace_through_the_loop() -> None:
    """By the real clock, with steps short enough for a test."""

    async def main() -> list[int]:
        engine = SimulatedEngine(
            EngineConfig(), vocab_size=100, token_ids=range(50), first_token_s=0.02, step_s=0.005
        )
        done = asyncio.Event()
        tokens: list[int] = []

        def deliver(outputs: Outputs) -> None:
            for batch in outputs["a"]:
                tokens.extend(batch.token_ids)
                if batch.finish:
                    done.set()

        loop = EngineLoop(engine, deliver)
        loop.start()
        clock = asyncio.get_running_loop()
        start = clock.time()
        loop.add(make_job(1))
        await asyncio.wait_for(done.wait(), 10)
        assert clock.time() - start >= 0.02 + 4 * 0.005 - 0.001
        assert loop.healthy
        loop.stop()
        return tokens

    interval = sys.getswitchinterval()
    try:
        assert len(asyncio.run(main())) == 5
    finally:
        sys.setswitchinterval(interval)
