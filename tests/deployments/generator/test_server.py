"""The service of a generator replica, with an engine loop whose steps the test makes."""

from __future__ import annotations

import msgspec

from app.errors import InvalidRequest
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
