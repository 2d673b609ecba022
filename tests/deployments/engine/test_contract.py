"""The contract of an engine, on both of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from deployments.engine.config import EngineConfig
from deployments.engine.protocol import Engine
from deployments.engine.simulated import SimulatedEngine
from tests.contracts.engine_contract import CONFIG, EngineContract
from tests.deployments.engine.harness import make_engine


class TestTransformersEngine(EngineContract):
    def make(self, config: EngineConfig = CONFIG) -> tuple[Engine, Callable[[float], None]]:
        passed_s = 0.0

        def wait(duration_s: float) -> None:
            nonlocal passed_s
            passed_s += duration_s

        return make_engine(config, clock=lambda: time.monotonic() + passed_s), wait


class TestSimulatedEngine(EngineContract):
    def make(self, config: EngineConfig = CONFIG) -> tuple[Engine, Callable[[float], None]]:
        now = [50.0]

        def wait(duration_s: float) -> None:
            now[0] += duration_s

        engine = SimulatedEngine(
            config,
            vocab_size=500,
            token_ids=range(100, 400),
            first_token_s=0.05,
            step_s=0.02,
            clock=lambda: now[0],
        )
        return engine, wait
