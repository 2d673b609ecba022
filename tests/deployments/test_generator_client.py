"""Generator client and server, wired to each other without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.errors import GeneratorUnavailable, InvalidRequest, Overloaded, ServiceError
from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, Steering, TokenBatch
from deployments.channel import BEAT_S, Accepted, encode
from deployments.generator_client import GeneratorClient
from deployments.link import LinkBusy
from tests.fakes.calls import FakeCalls
from tests.fakes.clock import settle
from tests.fakes.loop import run

INGRESS = "ingress-1"
STALL_TIMEOUT_S = 3.0


class Sink:
    """Keeps what it is fed, and checks that it comes in order and not after the loss."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.finish: str | None = None
        self.losses = 0

    def feed(self, batch: TokenBatch) -> None:
        assert not self.losses
        assert batch.position == len(self.ids)
        self.ids.extend(batch.token_ids)
        self.finish = batch.finish

    def lost(self) -> None:
        self.losses += 1


class BrokenSink(Sink):
    def feed(self, batch: TokenBatch) -> None:
        raise RuntimeError("a bug in a stream")


def job(key: int, n: int = 1) -> Job:
    return Job(ingress=INGRESS, key=key, prompt=[1], sampling=SamplingParams(max_tokens=99), n=n)


@asynccontextmanager
async def serving(*replicas: str) -> AsyncIterator[tuple[FakeCalls, GeneratorClient]]:
    calls = FakeCalls()
    for replica in replicas:
        calls.add(replica)
    client = GeneratorClient(
        calls, calls.directory, ingress=INGRESS, sequences_per_replica=8, stall_timeout_s=STALL_TIMEOUT_S
    )
    client.start()
    await settle()
    try:
        yield calls, client
    finally:
        await client.close()
        await calls.close()


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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Overloaded("full", retry_after_s=2), Overloaded),
        (InvalidRequest("no such token", param="prompt_token_ids"), InvalidRequest),
    ],
)
def test_refusal_of_the_engine_keeps_its_class(error: ServiceError, expected: type[ServiceError]) -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            calls.replicas["a"].engine.refusal = error
            with pytest.raises(expected) as caught:
                async with client.open(job(1), Sink()):
                    pass
            assert caught.value.body() == error.body()
            assert caught.value.retry_after_s == error.retry_after_s
            assert client.jobs == 0 and calls.replicas["a"].server.jobs == 0

    run(main())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LinkBusy("full up"), Overloaded),
        (ConnectionError("gone"), GeneratorUnavailable),
        (ZeroDivisionError("a bug"), ServiceError),
    ],
)
def test_call_that_fails_before_acceptance(error: Exception, expected: type[ServiceError]) -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            calls.replicas["a"].engine.refusal = error if isinstance(error, ServiceError) else None
            opened = asyncio.create_task(_open(client, Sink()))
            calls.replicas["a"].hangs = True
            await settle()
            next(call for call in calls.replicas["a"].calls if call.kind == "generate").fail(error)
            with pytest.raises(expected) as caught:
                await opened
            assert str(error) not in caught.value.message
            assert client.jobs == 0

    run(main())


async def _open(client: GeneratorClient, sink: Sink) -> None:
    async with client.open(job(1), sink):
        pass


def test_without_replicas_there_is_no_waiting() -> None:
    async def main() -> None:
        async with serving() as (_, client):
            assert client.capacity == 0
            with pytest.raises(GeneratorUnavailable):
                await _open(client, Sink())

    run(main())


def test_a_replica_that_does_not_accept_is_given_up() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            calls.replicas["a"].hangs = True
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(GeneratorUnavailable):
                await _open(client, Sink())
            assert asyncio.get_running_loop().time() - began_s <= STALL_TIMEOUT_S + 0.1

    run(main())


def test_jobs_go_where_the_fewest_choices_are() -> None:
    async def main() -> None:
        async with serving("a", "b") as (_, client), AsyncExitStack() as stack:

            async def opened(key: int, n: int = 1) -> str:
                return (await stack.enter_async_context(client.open(job(key, n), Sink()))).replica

            first = await opened(1)
            second = await opened(2, n=3)
            assert {first, second} == {"a", "b"}
            assert [await opened(key) for key in (3, 4)] == [first, first]
            assert {await opened(key) for key in (5, 6)} == {"a", "b"}

    run(main())


@pytest.mark.parametrize(
    "refusal", [Overloaded("full", retry_after_s=2), GeneratorUnavailable("stopping", retry_after_s=2)]
)
def test_a_replica_that_refuses_is_passed_over(refusal: ServiceError) -> None:
    async def main() -> None:
        async with serving("a", "b", "c") as (calls, client):
            calls.breaking.add("c")
            for replica in calls.replicas.values():
                replica.engine.refusal = refusal
            with pytest.raises((Overloaded, GeneratorUnavailable)):
                await _open(client, Sink())
            calls.replicas["b"].engine.refusal = None
            for key in range(2, 12):
                async with client.open(job(key), Sink()) as generation:
                    assert generation.replica == "b"
            await settle()
            assert [replica.server.jobs for replica in calls.replicas.values()] == [0, 0, 0]

    run(main())


@pytest.mark.parametrize("error", [ConnectionError("gone"), TimeoutError()])
def test_a_job_that_may_have_been_taken_is_taken_nowhere_else(error: Exception) -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            replica = calls.replicas["a"]
            replica.hangs = True
            opening = asyncio.create_task(_open(client, Sink()))
            await settle()
            other = calls.add("b")
            await settle()
            next(call for call in replica.calls if call.kind == "generate").fail(error)
            with pytest.raises(GeneratorUnavailable):
                await opening
            assert not other.engine.jobs and client.jobs == 0

    run(main())


def test_a_job_waits_for_the_link_to_a_replica() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            await _unlink(calls)
            opening = asyncio.create_task(_open(client, Sink()))
            await asyncio.sleep(1)
            assert not opening.done()
            calls.unlinked.clear()
            await opening
            await _unlink(calls)
            with pytest.raises(GeneratorUnavailable):
                await _open(client, Sink())

    run(main())


async def _unlink(calls: FakeCalls) -> None:
    calls.unlinked.add("a")
    for call in list(calls.replicas["a"].calls):
        call.fail(ConnectionError())
    await settle()


def test_a_job_that_is_taken_while_serve_drops_the_replica_goes_on() -> None:
    async def main() -> None:
        async with serving("a", "b") as (calls, client):
            calls.directory.mark("b", silent=True)
            sink, replica = Sink(), calls.replicas["a"]
            replica.hangs = True
            opening = asyncio.create_task(_until_finished(client, sink))
            await settle()
            replica.hangs = False
            calls.directory.publish(["b"])
            await settle()
            assert client.channels == {"a", "b"}
            answer = encode(Accepted())
            next(call for call in replica.calls if call.kind == "generate").items.put_nowait(answer)
            await settle()
            replica.engine.step(finish="stop")
            await opening
            assert sink.ids == [0] and sink.losses == 0

    run(main())


def test_a_replica_that_can_not_be_called_is_said_at_once() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            calls.breaking.add("a")
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(GeneratorUnavailable):
                await _open(client, Sink())
            assert client.jobs == 0 and asyncio.get_running_loop().time() == began_s

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


def test_tokens_may_overtake_the_acceptance() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            replica, sink = calls.replicas["a"], Sink()
            opening = asyncio.create_task(_until_finished(client, sink))
            while not replica.engine.jobs:  # noqa: ASYNC110
                await asyncio.sleep(0)
            replica.engine.step(3, finish="stop")
            await settle()
            await opening
            assert sink.ids == [0, 1, 2] and sink.losses == 0

    run(main())


async def _until_finished(client: GeneratorClient, sink: Sink) -> None:
    async with client.open(job(1), sink):
        while sink.finish is None:  # noqa: ASYNC110
            await asyncio.sleep(0)


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
                await asyncio.sleep(STALL_TIMEOUT_S - BEAT_S)
                assert sink.losses == 0
                await asyncio.sleep(2 * BEAT_S)
                assert sink.losses == 1
            assert client.capacity == 8
            async with client.open(job(2), Sink()) as generation:
                assert generation.replica == "b"
            calls.replicas["a"].hangs = False
            await asyncio.sleep(STALL_TIMEOUT_S + 1)
            assert client.capacity == 16

    run(main())


def test_an_engine_that_stands_still_counts_as_silence() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            sink = Sink()
            async with client.open(job(1), sink):
                calls.replicas["a"].engine.healthy = False
                await asyncio.sleep(STALL_TIMEOUT_S + 1)
                assert sink.losses == 1

    run(main())


def test_beats_keep_an_idle_channel() -> None:
    async def main() -> None:
        async with serving("a") as (_, client):
            sink = Sink()
            async with client.open(job(1), sink):
                await asyncio.sleep(20 * STALL_TIMEOUT_S)
                assert sink.losses == 0 and client.capacity == 8

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


def test_several_choices_end_with_the_last() -> None:
    async def main() -> None:
        async with serving("a") as (calls, client):
            replica = calls.replicas["a"]
            ends: list[int] = []

            class Choices(Sink):
                def feed(self, batch: TokenBatch) -> None:
                    if batch.finish:
                        ends.append(batch.choice)

            async with client.open(job(1, n=3), Choices()):
                replica.engine.step(finish="stop")
                await settle()
                assert ends == [0, 1, 2] and replica.server.jobs == 0

    run(main())


def test_closing_loses_what_is_open() -> None:
    async def main() -> None:
        async with serving("a") as (_, client):
            sink = Sink()
            async with client.open(job(1), sink):
                await client.close()
                assert sink.losses == 1

    run(main())
