"""The ingress deployment: the service of `app`, wired to the tokenizers and generators of the application.

Neither torch nor transformers is imported into its process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from grpc_health.v1 import health_pb2 as health
from ray import serve
from ray.serve._private.constants import RAY_SERVE_ENABLE_DIRECT_INGRESS
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from app.asgi.application import build_app
from app.backoff import Backoff
from app.errors import ServiceError
from app.model import Model
from app.proto import generation_pb2 as pb
from app.service import GenerationService
from app.settings import Settings
from app.streams.store import StreamStore
from app.streams.store_bounds import StoreBounds
from deployments.ingress.cold_start import cold_start_of
from deployments.ingress.generators import GeneratorClient
from deployments.ingress.grpc_servicer import CallContext, GenerationServicer
from deployments.ingress.handles import Fields, HandleCalls
from deployments.ingress.health_servicer import HealthServicer
from deployments.ingress.replica_links import ReplicaLinks, links_to
from deployments.ingress.replicas import directory_of
from deployments.ingress.store_client import StreamStoreClient
from deployments.ingress.tokenizer_client import TokenizerClient

logger = logging.getLogger(__name__)

LOAD_RETRY_S = 0.5

Handles = Mapping[str, DeploymentHandle[Any]]


@serve.ingress()
class Ingress:
    """Answers clients over HTTP, gRPC and handles.

    `tokenizers` and `generators` are the handles of each model by its name.
    `store` is the handle of the stream store, None when the settings say that it is Redis.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizers: Handles,
        generators: Handles,
        store: DeploymentHandle[Any] | None = None,
    ) -> None:
        self._settings = settings
        self._name = f"{serve.get_replica_context().replica_id.unique_id}-{secrets.token_hex(4)}"
        self._links: list[ReplicaLinks] = []
        self._generators: dict[str, GeneratorClient] = {}
        models: dict[str, Model] = {}
        for model in settings.models:
            handle = generators[model.name]
            generator = self._generators[model.name] = GeneratorClient(
                self._link(handle),
                directory_of(handle.app_name, handle.deployment_name),
                ingress=self._name,
                sequences_per_replica=model.sequences_per_replica,
                accept_timeout_s=model.accept_timeout_s,
                silence_timeout_s=settings.streams.stall_timeout_s,
                cold_start=cold_start_of(handle, model.start_timeout_s) if model.min_replicas == 0 else None,
            )
            tokenizer = TokenizerClient(self._link(tokenizers[model.name]))
            models[model.name] = Model(model, tokenizer, generator)
        self._close_store: Callable[[], Awaitable[None]] | None = None
        self._running: asyncio.Task[None] | None = None
        self._service = GenerationService(settings, models, self._stream_store(store), ingress=self._name)
        self._handle_calls = HandleCalls(self._service)
        # Serve's own proxy hears of a status without messages only by an exception.
        self._generation = GenerationServicer(self._service, raises=not RAY_SERVE_ENABLE_DIRECT_INGRESS)
        self._health = HealthServicer(self._service)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve, once, on the event loop that will serve. Channels and links open from here on."""
        for link in self._links:
            link.start()
        for generator in self._generators.values():
            generator.start()
        loop = asyncio.get_running_loop()
        self._loading = loop.create_task(self._load())
        self._running = loop.create_task(self._service.run())
        return build_app(self._service, echo_request_id=False)

    # What other code in the cluster calls through a handle.

    async def generate(
        self, request: Fields, *, api_key: str | None = None, idempotency_key: str | None = None
    ) -> AsyncGenerator[Fields, None]:
        """See `HandleCalls.generate`."""
        return await self._handle_calls.generate(request, api_key, idempotency_key)

    async def resume(
        self, stream: str, after: str | None = None, *, api_key: str | None = None
    ) -> AsyncGenerator[Fields, None]:
        """See `HandleCalls.resume`."""
        return await self._handle_calls.resume(stream, after, api_key)

    async def cancel(self, stream: str, *, api_key: str | None = None) -> Fields:
        """See `HandleCalls.cancel`."""
        return await self._handle_calls.cancel(stream, api_key)

    async def statistics(self) -> dict[str, int]:
        """The service's statistics, the jobs at generators as `jobs`, and the process id."""
        jobs = sum(generator.jobs for generator in self._generators.values())
        return {**self._service.statistics(), "jobs": jobs, "pid": os.getpid()}

    # The methods of the gRPC services. Serve finds them by their names, and gives the context by that of its parameter.

    async def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, grpc_context: CallContext
    ) -> AsyncGenerator[pb.Frame, None]:
        """Of `streaming_inference.v1.Generation`."""
        return await self._generation.generate(request, grpc_context)

    async def Resume(  # noqa: N802
        self, request: pb.ResumeRequest, grpc_context: CallContext
    ) -> AsyncGenerator[pb.Frame, None]:
        """Of `streaming_inference.v1.Generation`."""
        return await self._generation.resume(request, grpc_context)

    async def Cancel(self, request: pb.CancelRequest, grpc_context: CallContext) -> pb.CancelReply:  # noqa: N802
        """Of `streaming_inference.v1.Generation`."""
        return await self._generation.cancel(request, grpc_context)

    async def Converse(  # noqa: N802
        self, messages: AsyncIterator[pb.ClientMessage], grpc_context: CallContext
    ) -> AsyncGenerator[pb.Frame, None]:
        """Of `streaming_inference.v1.Generation`."""
        return await self._generation.converse(messages, grpc_context)

    async def Check(  # noqa: N802
        self, request: health.HealthCheckRequest, grpc_context: CallContext
    ) -> health.HealthCheckResponse:
        """Of `grpc.health.v1.Health`."""
        return await self._health.check(request, grpc_context)

    async def List(  # noqa: N802
        self, request: health.HealthListRequest, grpc_context: CallContext
    ) -> health.HealthListResponse:
        """Of `grpc.health.v1.Health`."""
        return await self._health.list(request, grpc_context)

    async def Watch(  # noqa: N802
        self, request: health.HealthCheckRequest, grpc_context: CallContext
    ) -> AsyncGenerator[health.HealthCheckResponse, None]:
        """Of `grpc.health.v1.Health`."""
        return self._health.watch(request, grpc_context)

    async def _load(self) -> None:
        """Learns what the models are, however long that takes: replicas start in any order."""
        backoff = Backoff(LOAD_RETRY_S)
        while True:
            try:
                return await self._service.load()
            except ServiceError as error:
                logger.info("The models are not known yet: %s", error.message)
                await backoff.pause()

    async def check_health(self) -> None:
        """Called by Serve. Raises when the replica should be replaced."""
        if self._running is not None and self._running.done():
            error = None if self._running.cancelled() else self._running.exception()
            raise RuntimeError("The service has stopped.") from error

    async def __del__(self) -> None:
        """Called by Serve when the replica stops."""
        self._loading.cancel()
        await self._service.close()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._close_store is not None:
            await self._close_store()
        for generator in self._generators.values():
            await generator.close()
        for link in self._links:
            await link.close()
        await super().__del__()  # type: ignore[misc]  # Serve's wrapper, which ends the lifespan of the application

    def _stream_store(self, handle: DeploymentHandle[Any] | None) -> StreamStore:
        """The stream store that the settings name."""
        if handle is not None:
            return StreamStoreClient.over(self._link(handle))
        from app.streams.redis.store import (
            RedisStreamStore,  # who does without Redis need not have its client
        )

        url = self._settings.streams.redis_url
        assert url is not None, "the settings have been validated"
        store = RedisStreamStore(url, StoreBounds.from_settings(self._settings))
        self._close_store = store.close
        return store

    def _link(self, handle: DeploymentHandle[Any]) -> ReplicaLinks:
        link = links_to(handle)
        self._links.append(link)
        return link
