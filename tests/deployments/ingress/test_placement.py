"""Which replica gets a job, and what becomes of one that is refused: generator client and server without Ray."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.errors import GeneratorUnavailable, InvalidRequest, Overloaded, ServiceError
from deployments.ingress.generators import GeneratorClient
from deployments.links.link import LinkBusy
from deployments.messages.call import Done, encode
from tests.fakes.clock import settle
from tests.fakes.jobs import ACCEPT_TIMEOUT_S, Sink, job, serving
from tests.fakes.links import FakeLinks
from tests.fakes.loop import run


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
            assert asyncio.get_running_loop().time() - began_s <= ACCEPT_TIMEOUT_S + 0.1

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
            with pytest.raises(GeneratorUnavailable) as caught:
                await opening
            assert caught.value.lost_replica == "a"
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


async def _unlink(calls: FakeLinks) -> None:
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
            answer = encode(Done(None))
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
            with pytest.raises(GeneratorUnavailable) as caught:
                await _open(client, Sink())
            assert caught.value.lost_replica is None
            assert client.jobs == 0 and asyncio.get_running_loop().time() == began_s

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
