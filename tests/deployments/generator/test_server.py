"""The service of a generator replica, with an engine loop whose steps the test makes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from app.errors import InvalidRequest, Overloaded
from app.schema.constraint import Constraint
from app.schema.tokens import TRIAL_S
from deployments.generator.channel import TRIAL_STEPS
from deployments.generator.server import GeneratorServer
from deployments.messages.call import Done, ErrorReply
from tests.fakes.job_loop import FakeJobLoop
from tests.fakes.jobs import INGRESS, job
from tests.fakes.loop import run

decode_acceptance = msgspec.msgpack.Decoder(Done[None] | ErrorReply).decode


def test_a_key_that_is_taken_is_refused_and_its_job_goes_on() -> None:
    async def main() -> None:
        server = GeneratorServer(max_jobs=8)
        loop = FakeJobLoop(server)
        first = server.generate(job(1))
        assert decode_acceptance(await anext(first)) == Done(None)

        [refusal] = [decode_acceptance(reply) async for reply in server.generate(job(1))]
        assert isinstance(refusal, ErrorReply) and refusal.code == InvalidRequest.code
        assert "the key 1" in refusal.message
        assert loop.jobs == {(INGRESS, 1): job(1)} and server.jobs == 1

        loop.step(finish="length")
        assert [reply async for reply in first] == []
        assert server.jobs == 0
        again = server.generate(job(1))
        assert decode_acceptance(await anext(again)) == Done(None), "the key is free again"
        await again.aclose()
        await server.close()

    run(main())


def test_one_job_is_on_trial_at_a_time() -> None:
    async def main() -> None:
        server = GeneratorServer(max_jobs=8)
        loop = FakeJobLoop(server)

        async def accepted(key: int, *, on_trial: bool = True) -> AsyncGenerator[bytes, None] | None:
            call = server.generate(msgspec.structs.replace(job(key), on_trial=on_trial))
            reply = decode_acceptance(await anext(call))
            if isinstance(reply, Done):
                return call
            assert reply.code == Overloaded.code
            return None

        first = await accepted(1)
        assert first is not None
        for _ in range(TRIAL_STEPS):
            assert await accepted(2) is None
            loop.step()
        second = await accepted(2)
        assert second is not None
        assert await accepted(3) is None
        other = await accepted(3, on_trial=False)
        assert other is not None
        await first.aclose()
        assert await accepted(4) is None, "the second is still on trial"
        await second.aclose()
        third = await accepted(4)
        assert third is not None
        await asyncio.sleep(TRIAL_S + 1)
        fourth = await accepted(5)
        assert fourth is not None, "the third was slow"
        for call in (other, third, fourth):
            await call.aclose()
        await server.close()

    run(main())


def test_what_takes_long_of_a_job_is_done_before_the_engine_gets_it() -> None:
    async def main() -> None:
        server = GeneratorServer(max_jobs=8)
        loop = FakeJobLoop(server)
        plain = job(1)
        constraint = Constraint(kind="regex", text="a")
        sampling = msgspec.structs.replace(plain.sampling, constraint=constraint)
        constrained = msgspec.structs.replace(job(2), sampling=sampling)
        for each in (plain, constrained):
            call = server.generate(each)
            assert decode_acceptance(await anext(call)) == Done(None)
            await call.aclose()
        assert loop.prepared == [constrained]
        await server.close()

    asyncio.run(main())  # with a thread, for which the other loop does not wait
