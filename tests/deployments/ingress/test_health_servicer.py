"""`grpc.health.v1.Health` says what `GET /health` says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2 as health

from app.settings import Settings
from deployments.ingress.health_servicer import HealthServicer
from tests.fakes.call_context import FakeContext
from tests.fakes.letters_service import LettersService, live

SETTINGS = Settings.model_validate({"models": [{"name": "letters"}]})
SERVING, NOT_SERVING = health.HealthCheckResponse.SERVING, health.HealthCheckResponse.NOT_SERVING
SERVICES = ["", "streaming_inference.v1.Generation"]


def run(test: Callable[[LettersService, HealthServicer], Awaitable[None]]) -> None:
    async def main(letters: LettersService) -> None:
        await test(letters, HealthServicer(letters.service))

    live(SETTINGS, main)


async def make_ready(letters: LettersService) -> asyncio.Task[None]:
    running = asyncio.ensure_future(letters.service.run())
    await letters.service.load()
    while not letters.service.ready():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return running


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_serves_when_a_stream_could_start(name: str) -> None:
    async def test(letters: LettersService, servicer: HealthServicer) -> None:
        request = health.HealthCheckRequest(service=name)
        assert (await servicer.check(request, FakeContext())).status == NOT_SERVING
        running = await make_ready(letters)
        assert (await servicer.check(request, FakeContext())).status == SERVING
        statuses = (await servicer.list(health.HealthListRequest(), FakeContext())).statuses
        assert {service: answer.status for service, answer in statuses.items()} == dict.fromkeys(
            SERVICES, SERVING
        )
        await stop(running)

    run(test)


def test_another_service_is_not_found() -> None:
    async def test(letters: LettersService, servicer: HealthServicer) -> None:
        context = FakeContext()
        await servicer.check(health.HealthCheckRequest(service="other"), context)
        assert context.code is grpc.StatusCode.NOT_FOUND

    run(test)


def test_a_watch_tells_every_change_and_ends_in_time() -> None:
    async def test(letters: LettersService, servicer: HealthServicer) -> None:
        watch = servicer.watch(health.HealthCheckRequest(), FakeContext())
        assert (await anext(watch)).status == NOT_SERVING
        running = await make_ready(letters)
        assert (await anext(watch)).status == SERVING
        await stop(running)
        began_s = asyncio.get_running_loop().time()
        assert [answer async for answer in watch] in ([], [health.HealthCheckResponse(status=NOT_SERVING)])
        assert asyncio.get_running_loop().time() - began_s <= SETTINGS.limits.request_timeout_s

    run(test)


def test_watching_another_service_says_that_it_is_unknown() -> None:
    async def test(letters: LettersService, servicer: HealthServicer) -> None:
        watch = servicer.watch(health.HealthCheckRequest(service="other"), FakeContext())
        assert (await anext(watch)).status == health.HealthCheckResponse.SERVICE_UNKNOWN
        await watch.aclose()

    run(test)
