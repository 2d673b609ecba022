"""How each server would be started. None is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.serve.targets import DEFAULT_TARGETS, MODEL_TARGETS, REFERENCE_TARGET, TARGETS, Launch, Plan
from benchmarks.serve.workload import Workload

SHIPPED_PATH = Path(__file__).parents[3] / "serve_config.yaml"


def launch(name: str, directory: Path) -> Launch:
    workload = Workload(clients=4, requests=8, tokens=10)
    return TARGETS[name](Plan(workload, 0.03, 0.04, SHIPPED_PATH, directory), directory)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_a_port_of_its_own_on_loopback(name: str, tmp_path: Path) -> None:
    found = launch(name, tmp_path)
    assert found.endpoint.host == "127.0.0.1"
    assert found.endpoint.port in found.ports
    assert found.title and found.health_path == "/health"


@pytest.mark.parametrize(
    "name", ["project", "project-default", "project-chat", "tutorial", "tutorial-haproxy", "project-model"]
)
def test_serve_gets_a_configuration_and_a_cluster_of_its_own(name: str, tmp_path: Path) -> None:
    found = launch(name, tmp_path)
    assert found.command[1:] == ["run", str(tmp_path / "serve_config.yaml")]
    assert found.environment["RAY_ADDRESS"] == "local"
    config = yaml.safe_load((tmp_path / "serve_config.yaml").read_text())
    in_haproxy_mode = name not in ("project-default", "tutorial")
    assert ("controller_options" in config) == in_haproxy_mode
    assert found.ports[1:] == ([8404, 9101] if in_haproxy_mode else [])


@pytest.mark.parametrize("name", ["plain", "litserve"])
def test_baselines_get_the_pace(name: str, tmp_path: Path) -> None:
    command = launch(name, tmp_path).command
    assert command[-4:] == ["--first-token-s", "0.03", "--step-s", "0.04"]


def test_dialects_and_endings(tmp_path: Path) -> None:
    dialects = {name: launch(name, tmp_path).endpoint.dialect for name in TARGETS}
    assert dialects == {
        "project": "native",
        "project-default": "native",
        "project-chat": "chat",
        "tutorial": "plain",
        "tutorial-haproxy": "plain",
        "plain": "plain",
        "litserve": "plain",
        "project-model": "chat",
        "transformers": "chat",
    }
    stops = {name for name in TARGETS if not launch(name, tmp_path).workload.ignore_eos}
    assert stops == set(MODEL_TARGETS)


def test_names() -> None:
    assert {*DEFAULT_TARGETS, *MODEL_TARGETS, REFERENCE_TARGET} <= set(TARGETS)
