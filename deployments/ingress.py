"""The ingress deployment: the service of `app`, wired to the tokenizers and generators of the application.

Neither torch nor transformers is imported into its process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from app.asgi.application import build_app
from app.errors import ServiceError
from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from app.streams.log import StreamLog
from deployments.calls import ServeGeneratorCalls
from deployments.generator_client import GeneratorClient
from deployments.link_client import LinkClient, links_to
from deployments.replica_directory import directory_of
from deployments.stream_log import log_bounds
from deployments.stream_log_client import StreamLogClient
from deployments.tokenizer_client import TokenizerClient

logger = logging.getLogger(__name__)

LOAD_RETRY_S = 0.5

Handles = Mapping[str, DeploymentHandle[Any]]


@serve.ingress()
class Ingress:
    """Answers clients. `tokenizers` and `generators` are the handles of each model by its name.

    `log` is the handle of the log of streams, None when the settings say that it is elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizers: Handles,
        generators: Handles,
        log: DeploymentHandle[Any] | None = None,
    ) -> None:
        self._settings = settings
        self._name = f"{serve.get_replica_context().replica_id.unique_id}-{secrets.token_hex(4)}"
        self._generators = {name: self._generator_client(name, handle) for name, handle in generators.items()}
        self._links: list[LinkClient] = []
        models = {
            model.name: Model(model, self._tokenizer(tokenizers[model.name]), self._generators[model.name])
            for model in settings.models
        }
        self._close_log: Callable[[], Awaitable[None]] | None = None
        self._running: asyncio.Task[None] | None = None
        self._service = GenerationService(settings, models, self._log(log), ingress=self._name)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve, once, on the event loop that will serve. Channels and links open from here on."""
        for generator in self._generators.values():
            generator.start()
        for link in self._links:
            link.start()
        loop = asyncio.get_running_loop()
        self._loading = loop.create_task(self._load())
        self._running = loop.create_task(self._service.run())
        return build_app(self._service, echo_request_id=False)

    async def _load(self) -> None:
        """Learns what the models are, for as long as that takes: replicas start in any order."""
        while True:
            try:
                await self._service.load()
            except ServiceError as error:
                logger.info("The models are not known yet: %s", error.message)
            else:
                return
            await asyncio.sleep(LOAD_RETRY_S)

    async def check_health(self) -> None:
        """Called by Serve now and then, which replaces the replica when it raises."""
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
        if self._close_log is not None:
            await self._close_log()
        for generator in self._generators.values():
            await generator.close()
        for link in self._links:
            await link.close()
        await super().__del__()  # type: ignore[misc]  # Serve's wrapper, which ends the lifespan of the application

    def _log(self, handle: DeploymentHandle[Any] | None) -> StreamLog:
        """The log of streams that the settings name."""
        if handle is not None:
            return StreamLogClient(self._link(handle))
        from app.streams.redis_log import RedisStreamLog  # who does without Redis need not have its client

        url = self._settings.streams.redis_url
        assert url is not None, "the settings have been validated"
        log = RedisStreamLog(url, log_bounds(self._settings))
        self._close_log = log.close
        return log

    def _tokenizer(self, handle: DeploymentHandle[Any]) -> TokenizerClient:
        return TokenizerClient(handle, self._link(handle))

    def _link(self, handle: DeploymentHandle[Any]) -> LinkClient:
        link = links_to(handle)
        self._links.append(link)
        return link

    def _generator_client(self, name: str, handle: DeploymentHandle[Any]) -> GeneratorClient:
        model = next(model for model in self._settings.models if model.name == name)
        return GeneratorClient(
            ServeGeneratorCalls(handle),
            directory_of(handle.app_name, handle.deployment_name),
            ingress=self._name,
            sequences_per_replica=model.sequences_per_replica,
            stall_timeout_s=self._settings.streams.stall_timeout_s,
        )
