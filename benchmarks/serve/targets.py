"""The servers to compare: how each is started, and the endpoint that gets the load.

All of them make tokens at the same pace, except for the two that run a real model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import benchmarks
from benchmarks.serve import serve_config
from benchmarks.serve.server import free_port
from benchmarks.serve.workload import DialectName, Endpoint, Workload

# Of HAProxy's statistics and metrics: fixed, so they must be free too.
HAPROXY_PORTS = (8404, 9101)
SERVE_START_TIMEOUT_S = 300.0
START_TIMEOUT_S = 90.0
BASELINES = "benchmarks.baselines"
TUTORIAL = f"{BASELINES}.serve_tutorial:build_app"


class Plan(msgspec.Struct, frozen=True):
    """What all servers of a benchmark share: the load, the pace of the tokens, the configuration, the model."""

    workload: Workload
    first_token_s: float
    step_s: float
    config_path: Path
    model_path: Path


class Launch(msgspec.Struct, frozen=True):
    """How to start one server, and where to send the load."""

    title: str
    command: list[str]
    endpoint: Endpoint
    workload: Workload
    ports: list[int]
    environment: dict[str, str]
    start_timeout_s: float = START_TIMEOUT_S
    health_path: str = "/health"


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": str(benchmarks.ROOT)}


def _program(name: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).with_name(name))


def _serve(plan: Plan, directory: Path, title: str, config: dict[str, Any], endpoint: Endpoint) -> Launch:
    path = serve_config.write_config(config, directory)
    return Launch(
        title=title,
        command=[_program("serve"), "run", str(path)],
        endpoint=endpoint,
        workload=plan.workload,
        ports=[endpoint.port, *(HAPROXY_PORTS if "controller_options" in config else ())],
        # `local` always starts a new cluster, even beside a running one.
        environment=_python_path()
        | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
        start_timeout_s=SERVE_START_TIMEOUT_S,
    )


def _shipped_config(plan: Plan, haproxy: bool) -> dict[str, Any]:
    config = serve_config.read_config(plan.config_path)
    return config if haproxy else serve_config.in_default_mode(config)


def _project(
    plan: Plan,
    directory: Path,
    title: str,
    *,
    haproxy: bool = True,
    path: str = "/v1/streams",
    dialect: DialectName = "native",
) -> Launch:
    shipped = _shipped_config(plan, haproxy)
    config = serve_config.for_simulation(shipped, plan.workload, plan.first_token_s, plan.step_s)
    port, model = serve_config.port_of(config), serve_config.model_of(config)
    return _serve(plan, directory, title, config, Endpoint(port, path, dialect, model))


def _tutorial(plan: Plan, directory: Path, title: str, *, haproxy: bool) -> Launch:
    pace = {"first_token_s": plan.first_token_s, "step_s": plan.step_s}
    config = serve_config.for_application(_shipped_config(plan, haproxy), TUTORIAL, pace)
    endpoint = Endpoint(serve_config.port_of(config), "/generate", "plain")
    return _serve(plan, directory, title, config, endpoint)


def _baseline(plan: Plan, directory: Path, title: str, module: str) -> Launch:
    port = free_port()
    pace = ["--first-token-s", str(plan.first_token_s), "--step-s", str(plan.step_s)]
    return Launch(
        title=title,
        command=[sys.executable, "-m", f"{BASELINES}.{module}", "--port", str(port), *pace],
        endpoint=Endpoint(port, "/generate", "plain"),
        workload=plan.workload,
        ports=[port],
        environment=_python_path(),
    )


def _model_workload(workload: Workload) -> Workload:
    # `transformers serve` has no `ignore_eos`: both servers stop where the model does, which is the same place.
    return msgspec.structs.replace(workload, ignore_eos=False)


def _project_with_model(plan: Plan, directory: Path) -> Launch:
    workload = _model_workload(plan.workload)
    shipped = serve_config.read_config(plan.config_path)
    config = serve_config.for_model(shipped, workload, plan.model_path.resolve())
    endpoint = Endpoint(
        serve_config.port_of(config), "/v1/chat/completions", "chat", serve_config.model_of(config)
    )
    launch = _serve(plan, directory, "this project, real model", config, endpoint)
    return msgspec.structs.replace(launch, workload=workload)


def _transformers(plan: Plan, directory: Path) -> Launch:
    port, path = free_port(), str(plan.model_path.resolve())
    return Launch(
        title="transformers serve, continuous batching",
        command=[
            *(_program("transformers"), "serve", path, "--continuous-batching"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        endpoint=Endpoint(port, "/v1/chat/completions", "chat", path),
        workload=_model_workload(plan.workload),
        ports=[port],
        environment={"HF_HUB_OFFLINE": "1"},
    )


TARGETS: dict[str, Callable[[Plan, Path], Launch]] = {
    "project": partial(_project, title="this project, HAProxy + gRPC"),
    "project-default": partial(_project, title="this project, Serve's default mode", haproxy=False),
    "project-chat": partial(
        _project, title="this project, OpenAI dialect", path="/v1/chat/completions", dialect="chat"
    ),
    "tutorial": partial(_tutorial, title="Serve tutorial, default mode", haproxy=False),
    "tutorial-haproxy": partial(_tutorial, title="Serve tutorial, HAProxy + gRPC", haproxy=True),
    "plain": partial(_baseline, title="uvicorn + Starlette, one process", module="plain_starlette"),
    "litserve": partial(_baseline, title="LitServe", module="litserve_server"),
    "project-model": _project_with_model,
    "transformers": _transformers,
}
"""A function for each target: it writes the server's files into a directory and says how to start the server."""

DEFAULT_TARGETS = ("plain", "project", "project-default", "tutorial-haproxy", "tutorial", "litserve")
REFERENCE_TARGET = "plain"
MODEL_TARGETS = ("project-model", "transformers")
