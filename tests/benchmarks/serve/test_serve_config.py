"""Configurations made from the shipped one: valid, roomy enough, and otherwise unchanged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from benchmarks.serve import serve_config
from benchmarks.serve.workload import Workload

SHIPPED_PATH = Path(__file__).parents[3] / "serve_config.yaml"
WORKLOAD = Workload(clients=96, requests=200, tokens=3000, prompt_tokens=100, readers_stalled=100)


@pytest.fixture
def shipped() -> dict[str, Any]:
    return serve_config.read_config(SHIPPED_PATH)


def settings_of(config: dict[str, Any]) -> Settings:
    return Settings.model_validate(config["applications"][0]["args"])


def test_a_simulation_of_the_shipped_application(shipped: dict[str, Any]) -> None:
    unchanged = copy.deepcopy(shipped)
    config = serve_config.for_simulation(shipped, WORKLOAD, 0.1, 0.05)
    assert shipped == unchanged
    settings = settings_of(config)
    model = settings.models[0]
    assert (model.engine, model.simulated.first_token_s, model.simulated.step_s) == ("simulated", 0.1, 0.05)
    assert model.max_running_sequences == 196 and model.max_replicas == 1
    assert (model.max_model_len_tokens or 0) >= 3100
    assert model.kv_cache_tokens >= 196 * 3100
    assert settings.limits.max_streams_per_key >= 196
    assert settings.limits.max_output_tokens is None
    assert {key: value for key, value in config.items() if key != "applications"} == {
        key: value for key, value in shipped.items() if key != "applications"
    }


def test_a_real_model_keeps_its_memory(shipped: dict[str, Any]) -> None:
    config = serve_config.for_model(shipped, WORKLOAD, Path("/models/m"))
    before, after = settings_of(shipped).models[0], settings_of(config).models[0]
    assert (after.engine, after.path) == ("transformers", "/models/m")
    assert after.kv_cache_tokens == before.kv_cache_tokens
    assert after.max_model_len_tokens == before.max_model_len_tokens


def test_the_default_mode_has_none_of_serve_s_flags(shipped: dict[str, Any]) -> None:
    assert "controller_options" in shipped
    config = serve_config.in_default_mode(shipped)
    assert "controller_options" not in config
    assert config["applications"] == shipped["applications"]


def test_another_application_under_the_same_options(shipped: dict[str, Any]) -> None:
    config = serve_config.for_application(shipped, "a.b:c", {"step_s": 1})
    (application,) = config["applications"]
    assert (application["import_path"], application["args"]) == ("a.b:c", {"step_s": 1})
    assert config["controller_options"] == shipped["controller_options"]
    assert config["http_options"] == shipped["http_options"]


def test_writing_and_reading(shipped: dict[str, Any], tmp_path: Path) -> None:
    path = serve_config.write_config(shipped, tmp_path)
    assert serve_config.read_config(path) == shipped
    assert serve_config.port_of(shipped) == shipped["http_options"]["port"]
    assert serve_config.port_of({}) == 8000
    assert serve_config.model_of(shipped) == shipped["applications"][0]["args"]["models"][0]["name"]


def test_what_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("- a list")
    with pytest.raises(ValueError, match="no configuration"):
        serve_config.read_config(path)
