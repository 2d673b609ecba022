"""The generator deployment: one replica runs one engine and serves it to the ingress processes."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec
import ray

from app.settings import ModelSettings
from deployments.engine.config import EngineConfig
from deployments.engine.loop import EngineLoop
from deployments.engine.simulated import SimulatedEngine
from deployments.engine.threads import Threads
from deployments.generator.autoscaling import Load
from deployments.generator.server import GeneratorServer
from deployments.model.files import (
    load_tokenizer,
    load_transformers_tokenizer,
    model_path,
    printable_token_ids,
    read_end_ids,
    serialised,
)

if TYPE_CHECKING:
    from deployments.engine.protocol import Engine


def build_engine(settings: ModelSettings, replicas: int = 1) -> Engine:
    """The engine of a model, on a machine that it may share with `replicas` generator replicas, itself among them.

    Takes seconds and blocks; raises `UnsupportedModel`, `OSError`, and `ValueError` for a GGUF file that can't be read.
    """
    config = EngineConfig.from_settings(settings)
    path = model_path(settings)
    if settings.engine == "simulated":
        bare = load_tokenizer(path)
        return SimulatedEngine(
            config,
            vocab_size=bare.get_vocab_size(),
            token_ids=printable_token_ids(bare),
            first_token_s=settings.simulated.first_token_s,
            step_s=settings.simulated.step_s,
        )
    # torch stays out of the processes that only build or route.
    from deployments.engine.loading import load_engine

    tokenizer = load_transformers_tokenizer(path)
    return load_engine(
        path,
        config,
        device=settings.device,
        dtype=settings.dtype,
        end_ids=read_end_ids(path, tokenizer),
        tokenizer_json=serialised(tokenizer),
        threads=Threads(settings.threads, replicas, settings.cpus_per_replica),
    )


class Generator(GeneratorServer):
    """A `GeneratorServer` as a Serve deployment, with its engine. The application has up to `replicas` such replicas."""

    def __init__(self, settings: ModelSettings, replicas: int = 1) -> None:
        super().__init__(settings.sequences_per_replica)
        self._places = settings.max_running_sequences
        self._engine_loop = EngineLoop(
            build_engine(settings, replicas), self.deliver, step_timeout_s=settings.step_timeout_s
        )
        self._engine_loop.start()
        self.serve(self._engine_loop)

    async def link_address(self) -> bytes:
        """The encoded `LinkAddress` on which jobs are started, channels opened and controls sent."""
        return await self.link.address(ray.util.get_node_ip_address())

    async def statistics(self) -> dict[str, float]:
        """The engine's statistics, the open `generate` calls as `jobs`, and the process id."""
        return {
            **msgspec.structs.asdict(self._engine_loop.statistics()),
            "jobs": self.jobs,
            "pid": os.getpid(),
        }

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve, for `deployments.generator.autoscaling`."""
        statistics = self._engine_loop.statistics()
        sequences = statistics.running + statistics.waiting + statistics.paused
        load = Load(
            places=sequences / self._places,
            memory=statistics.kv_tokens_used / statistics.kv_tokens_total,
            queue_s=statistics.queue_s,
        )
        return load._asdict()

    def check_health(self) -> None:
        """Called by Serve. Raises when the replica should be replaced."""
        if not self.healthy:
            raise RuntimeError("The engine makes no steps.")

    async def __del__(self) -> None:
        """Called by Serve when the replica stops. Jobs may end within `graceful_shutdown_timeout_s`."""
        await self.drained()
        await self.close()
        await asyncio.to_thread(self._engine_loop.stop)
