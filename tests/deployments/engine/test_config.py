from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.settings import ModelSettings
from deployments.engine.config import EngineConfig


def test_the_defaults_are_those_of_the_settings() -> None:
    assert EngineConfig.from_settings(ModelSettings()) == EngineConfig()


BOUNDS = [name for name in EngineConfig.__struct_fields__ if name != "on_divergence"]


def test_all_bounds_come_from_the_settings() -> None:
    bounds: dict[str, Any] = dict(zip(BOUNDS, (10, 2, 3, 40, 5, 70), strict=True))
    config = EngineConfig.from_settings(ModelSettings(**bounds, on_divergence="fail"))
    assert msgspec.structs.asdict(config) == {**bounds, "on_divergence": "fail"}
    assert config.max_sequences == 5


@pytest.mark.parametrize("on_divergence", ["", "Fail", 0])
def test_what_becomes_of_a_divergence_is_one_of_two_things(on_divergence: Any) -> None:
    with pytest.raises(ValueError, match="on_divergence"):
        EngineConfig(on_divergence=on_divergence)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EngineConfig(**dict[str, Any]({name: 0}))


def test_memory_for_less_than_one_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="can't hold one sequence"):
        EngineConfig(max_model_len_tokens=100, kv_cache_tokens=99)
