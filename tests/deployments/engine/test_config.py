from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.settings import ModelSettings
from deployments.engine.config import EngineConfig


def test_the_defaults_are_those_of_the_settings() -> None:
    assert EngineConfig.from_settings(ModelSettings()) == EngineConfig()


SETTINGS: dict[str, Any] = {
    "max_model_len_tokens": 10,
    "max_running_sequences": 2,
    "max_waiting_sequences": 3,
    "kv_cache_tokens": 40,
    "prefill_chunk_tokens": 5,
    "prefill_chunk_ms": 70,
    "batch_invariant": False,
    "on_divergence": "fail",
}


def test_everything_comes_from_the_settings() -> None:
    config = EngineConfig.from_settings(ModelSettings(**SETTINGS))
    assert msgspec.structs.asdict(config) == SETTINGS
    assert config.max_sequences == 5


@pytest.mark.parametrize("on_divergence", ["", "Fail", 0])
def test_what_becomes_of_a_divergence_is_one_of_two_things(on_divergence: Any) -> None:
    with pytest.raises(ValueError, match="on_divergence"):
        EngineConfig(on_divergence=on_divergence)


@pytest.mark.parametrize("name", [name for name, value in SETTINGS.items() if type(value) is int])
def test_a_bound_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EngineConfig(**dict[str, Any]({name: 0}))


def test_memory_for_less_than_one_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="can't hold one sequence"):
        EngineConfig(max_model_len_tokens=100, kv_cache_tokens=99)
