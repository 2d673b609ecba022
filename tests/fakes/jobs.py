"""A generator client over replicas of the test, and what is needed to give it jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, TokenBatch
from deployments.ingress.cold_start import ColdStart
from deployments.ingress.generators import GeneratorClient
from tests.fakes.clock import settle
from tests.fakes.links import FakeLinks

INGRESS = "ingress-1"
ACCEPT_TIMEOUT_S = SILENCE_TIMEOUT_S = 3.0


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


def job(key: int, n: int = 1) -> Job:
    return Job(ingress=INGRESS, key=key, prompt=[1], sampling=SamplingParams(max_tokens=99), n=n)


@asynccontextmanager
async def serving(
    *replicas: str, cold_start: ColdStart | None = None
) -> AsyncIterator[tuple[FakeLinks, GeneratorClient]]:
    calls = FakeLinks()
    for replica in replicas:
        calls.add(replica)
    client = GeneratorClient(
        calls,
        calls.directory,
        ingress=INGRESS,
        sequences_per_replica=8,
        accept_timeout_s=ACCEPT_TIMEOUT_S,
        silence_timeout_s=SILENCE_TIMEOUT_S,
        cold_start=cold_start,
    )
    client.start()
    await settle()
    try:
        yield calls, client
    finally:
        await client.close()
        await calls.close()
