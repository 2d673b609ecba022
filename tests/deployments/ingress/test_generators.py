"""Generator client and server, wired to each other without Ray."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from app.schema.tokens import Steering, TokenBatch
from deployments.ingress.cold_start import ColdStart
from deployments.ingress.generators import GeneratorClient
from deployments.messages.generation import BEAT_S
from tests.fakes.clock import settle
from tests.fakes.jobs import INGRESS, SILENCE_TIMEOUT_S, Sink, job, serving
from tests.fakes.loop import run


class BrokenSink(Sink):
    def feed(self, batch: TokenBatch) -> None:
        raise RuntimeError("a bug in a stream")


class Choices(Sink):
    """For jobs of several choices: keeps which have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []

    def feed(self, batch: TokenBatch) -> None:
        if batch.finish:
            self.ends.append(batch.choice)


def test_tokens_of_a_job_reach_its_sink() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            engine, sink = calls.replicas["a"].engine, Sink()
            async with client.open(job(1), sink) as generation:
                assert generation.replica == "a"
                engine.step()
                engine.step(2)
                engine.step(finish="length")
                await settle()
                assert (sink.ids, sink.finish) == ([0, 1, 2, 3], "length")
            await settle()
            assert calls.replicas["a"].server.jobs == 0 and sink.losses == 0

    run(main())


def test_capacity_follows_the_replicas() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            assert client.capacity == 8
            calls.add("b")
            await settle()
            assert client.capacity == 16 and client.channels == {"a", "b"}
            del calls.replicas["b"]
            calls.directory.publish(["a"])
            await settle()
            assert client.capacity == 8 and client.channels == {"a"}

    run(main())


def test_what_the_replicas_say_of_themselves() -> None:
    async def main() -> None:
        async with serving() as (calls, client):
            said = [client.deterministic]
            for name, deterministic in (("a", True), ("b", False)):
                calls.add(name, deterministic=deterministic)
                await settle()
                said.append(client.deterministic)
            assert said == [False, True, False]
            for name, expected in (("a", True), ("b", False)):
                calls.directory.publish([name])
                async with client.open(job(1), Sink()) as generation:
                    assert generation.deterministic is expected
            del calls.replicas["a"]
            calls.kill("b", ConnectionError())
            await settle()
            assert client.capacity == 0 and not client.deterministic

    run(main())


def test_without_a_replica_there_is_room_for_what_the_first_one_takes() -> None:
    async def main() -> None:
        async with serving(cold_start=ColdStart(asyncio.Event().wait, 60)) as (calls, client):
            assert (client.asleep, client.capacity) == (True, 8)
            waking = asyncio.create_task(client.wake())
            await asyncio.sleep(20)
            assert not waking.done()
            calls.add("a")
            await waking
            assert (client.asleep, client.capacity) == (False, 8)
            async with client.open(job(1), Sink()) as generation:
                assert generation.replica == "a"
                # A replica that drains keeps its channel, and takes nothing.
                calls.directory.publish([])
                await settle()
                assert (client.asleep, client.channels) == (True, frozenset("a"))
                waking = asyncio.create_task(client.wake())
                await asyncio.sleep(20)
                assert not waking.done()
                calls.add("b")
                await waking

    run(main())


def test_leaving_frees_the_place() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            replica = calls.replicas["a"]
            async with client.open(job(1), Sink()):
                assert len(replica.engine.jobs) == 1
            await settle()
            assert not replica.engine.jobs and replica.server.jobs == 0 and client.jobs == 0
            assert [call.kind for call in replica.calls] == ["channel"]

    run(main())


@pytest.mark.parametrize("turns", range(12))
def test_cancelling_at_any_moment_frees_the_place(turns: int) -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):

            async def use() -> None:
                async with client.open(job(1), Sink()):
                    await asyncio.Event().wait()

            task = asyncio.create_task(use())
            await settle(turns)
            task.cancel()
            await settle()
            assert task.cancelled()
            replica = calls.replicas["a"]
            assert not replica.engine.jobs and replica.server.jobs == 0 and client.jobs == 0
            assert [call.kind for call in replica.calls] == ["channel"]

    run(main())


def test_a_broken_channel_loses_and_repeats_nothing() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            replica, sink = calls.replicas["a"], Sink()
            async with client.open(job(1), sink):
                for round_ in range(5):
                    replica.engine.step()
                    if round_ % 2:
                        await settle()
                    next(call for call in replica.calls if call.kind == "channel").fail(ConnectionError())
                    replica.engine.step()
                    await asyncio.sleep(0.3)
                replica.engine.step(finish="stop")
                await settle()
                assert sink.ids == list(range(11)) and sink.finish == "stop" and sink.losses == 0

    run(main())


def test_a_killed_replica_loses_its_jobs_at_once() -> None:
    async def main() -> None:
        async with serving("a", "b") as (calls, client):
            sink, other = Sink(), Sink()
            calls.directory.mark("b", silent=True)
            async with client.open(job(1), sink):
                calls.directory.mark("b", silent=False)
                calls.directory.mark("a", silent=True)
                async with client.open(job(2), other) as generation:
                    assert generation.replica == "b"
                    began_s = asyncio.get_running_loop().time()
                    calls.kill("a", ConnectionError())
                    await settle()
                    assert sink.losses == 1 and other.losses == 0
                    assert asyncio.get_running_loop().time() == began_s
                    calls.replicas["b"].engine.step()
                    await settle()
                    assert other.ids == [0]
                    assert client.channels == {"b"} or await _closes(client, "a")

    run(main())


async def _closes(client: GeneratorClient, replica: str) -> bool:
    """A channel may stay until the job that it served has been left."""
    return replica in client.channels


def test_silence_is_a_loss_and_new_jobs_go_elsewhere() -> None:
    async def main() -> None:
        async with serving("a", "b") as (calls, client):
            sink = Sink()
            calls.directory.mark("b", silent=True)
            async with client.open(job(1), sink) as generation:
                assert generation.replica == "a"
                calls.directory.mark("b", silent=False)
                calls.replicas["a"].hangs = True
                await asyncio.sleep(SILENCE_TIMEOUT_S - BEAT_S)
                assert sink.losses == 0
                await asyncio.sleep(2 * BEAT_S)
                assert sink.losses == 1
            assert client.capacity == 8
            async with client.open(job(2), Sink()) as generation:
                assert generation.replica == "b"
            calls.replicas["a"].hangs = False
            await asyncio.sleep(SILENCE_TIMEOUT_S + 1)
            assert client.capacity == 16

    run(main())


def test_an_engine_that_stands_still_counts_as_silence() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            sink = Sink()
            async with client.open(job(1), sink):
                calls.replicas["a"].engine.healthy = False
                await asyncio.sleep(SILENCE_TIMEOUT_S + 1)
                assert sink.losses == 1

    run(main())


def test_beats_keep_an_idle_channel() -> None:
    async def main() -> None:
        async with serving("a") as (_, client):
            sink = Sink()
            async with client.open(job(1), sink):
                await asyncio.sleep(20 * SILENCE_TIMEOUT_S)
                assert sink.losses == 0 and client.capacity == 8

    run(main())


def test_a_replica_drains_until_its_last_job_has_ended() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            server = calls.replicas["a"].server
            async with client.open(job(1), Sink()):
                draining = asyncio.create_task(server.drained())
                await asyncio.sleep(60)
                assert not draining.done()
            await draining

    run(main())


def test_a_draining_replica_ends_its_jobs_and_then_the_channel_closes() -> None:
    async def main() -> None:
        async with serving("a", "b") as (calls, client):
            sink, replica = Sink(), calls.replicas["a"]
            calls.directory.mark("b", silent=True)
            async with client.open(job(1), sink):
                calls.directory.publish(["b"])
                await settle()
                assert client.channels == {"a", "b"}
                replica.engine.step(finish="stop")
                await settle()
                assert sink.finish == "stop"
            await settle()
            assert client.channels == {"b"} and not replica.calls

    run(main())


def test_a_sink_that_raises_hurts_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            engine, broken, sink = calls.replicas["a"].engine, BrokenSink(), Sink()
            async with client.open(job(1), broken), client.open(job(2), sink):
                engine.step()
                await settle()
                assert broken.losses == 1 and sink.ids == [0]
                assert list(engine.jobs) == [(INGRESS, 2)]
                engine.step()
                await settle()
                assert broken.losses == 1 and sink.ids == [0, 1]

    run(main())
    assert "could not take its tokens" in caplog.text


def test_controls_of_a_tick_go_in_one_call() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            engine = calls.replicas["a"].engine
            async with client.open(job(1), Sink()) as one, client.open(job(2), Sink()) as two:
                one.pause()
                two.pause()
                await settle()
                assert engine.controls == [("pause", 1), ("pause", 2)] and calls.control_calls == 1
                one.resume()
                one.pause()
                two.resume()
                await settle()
                assert engine.paused == {(INGRESS, 1)} and calls.control_calls == 2

    run(main())


def test_a_resume_is_sent_until_it_arrives() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            engine = calls.replicas["a"].engine
            async with client.open(job(1), Sink()) as generation:
                generation.pause()
                await settle()
                calls.control_failures = 3
                generation.resume()
                await asyncio.sleep(5)
                assert not engine.paused and calls.control_calls == 5

    run(main())


def test_what_is_put_in_arrives_in_order_and_is_not_lost() -> None:
    """A call that fails may have been obeyed: it is sent again, and the engine knows each steering by its id."""

    async def main() -> None:
        async with serving("a") as (calls, client):
            engine = calls.replicas["a"].engine
            async with client.open(job(1), Sink()) as one, client.open(job(2), Sink()) as two:
                calls.control_failures = 2
                one.steer(Steering("a", [1]))
                one.pause()
                await settle()
                one.steer(Steering("b", [2]))
                two.steer(Steering("c", [3]))
                one.resume()
                await asyncio.sleep(5)
                assert engine.steerings == [
                    (1, Steering("a", [1])),
                    (1, Steering("b", [2])),
                    (2, Steering("c", [3])),
                ]
                assert not engine.paused and calls.control_calls == 3

    run(main())


def test_the_end_of_a_choice_arrives_unless_the_engine_was_faster() -> None:
    async def main() -> None:
        async with serving("a", "b") as (calls, client):
            begun = msgspec.structs.replace(job(1, n=3), finished=[True, False, False])
            async with client.open(begun, Choices()) as generation:
                engine = calls.replicas[generation.replica].engine
                for choice in range(2):
                    generation.end(choice)
                calls.control_failures = 2
                await asyncio.sleep(5)
                assert engine.ended == [(1, 1)]
                engine.step(finish="stop")
                await settle()
                generation.end(2)
                await settle()
                assert engine.ended == [(1, 1)]
            async with client.open(job(2, n=2), Choices()) as generation:
                calls.kill(generation.replica, ConnectionError())
                generation.end(0)
                await settle()
            assert all((2, 0) not in replica.engine.ended for replica in calls.replicas.values())

    run(main())


def test_several_choices_end_with_the_last() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            replica = calls.replicas["a"]
            sink = Choices()
            async with client.open(job(1, n=3), sink):
                replica.engine.step(finish="stop")
                await settle()
                assert sink.ends == [0, 1, 2] and replica.server.jobs == 0

    run(main())


def test_closing_loses_what_is_open() -> None:
    async def main() -> None:
        async with serving("a") as (_, client):
            sink = Sink()
            async with client.open(job(1), sink):
                await client.close()
                assert sink.losses == 1

    run(main())
