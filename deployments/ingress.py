"""The ingress deployment: the service of `app`, wired to the tokenizers and generators of the application.

Neither torch nor transformers is imported into its process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from app.asgi.application import build_app
from app.errors import ServiceError
from app.model import Model
from app.service import GenerationService
from app.settings import Settings
from deployments.calls import ServeGeneratorCalls
from deployments.generator_client import GeneratorClient
from deployments.replica_directory import directory_of
from deployments.tokenizer_client import TokenizerClient

logger = logging.getLogger(__name__)

LOAD_RETRY_S = 0.5

Handles = Mapping[str, DeploymentHandle[Any]]


@serve.ingress()
class Ingress:
    """Answers clients. `tokenizers` and `generators` are the handles of each model by its name."""

    def __init__(self, settings: Settings, tokenizers: Handles, generators: Handles) -> None:
        self._settings = settings
        self._name = f"{serve.get_replica_context().replica_id.unique_id}-{secrets.token_hex(4)}"
        self._generators = {name: self._generator_client(name, handle) for name, handle in generators.items()}
        models = {
            model.name: Model(model, TokenizerClient(tokenizers[model.name]), self._generators[model.name])
            for model in settings.models
        }
        self._service = GenerationService(settings, models, ingress=self._name)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve, once, on the event loop that will serve. Channels open from here on."""
        for generator in self._generators.values():
            generator.start()
        self._loading = asyncio.get_running_loop().create_task(self._load())
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

    async def __del__(self) -> None:
        """Called by Serve when the replica stops."""
        self._loading.cancel()
        await self._service.close()
        for generator in self._generators.values():
            await generator.close()
        await super().__del__()  # type: ignore[misc]  # Serve's wrapper, which ends the lifespan of the application

    def _generator_client(self, name: str, handle: DeploymentHandle[Any]) -> GeneratorClient:
        model = next(model for model in self._settings.models if model.name == name)
        return GeneratorClient(
            ServeGeneratorCalls(handle),
            directory_of(handle.app_name, handle.deployment_name),
            ingress=self._name,
            sequences_per_replica=model.sequences_per_replica,
            stall_timeout_s=self._settings.streams.stall_timeout_s,
        )
