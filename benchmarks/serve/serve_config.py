"""The configuration of a run, made from the shipped `serve_config.yaml` so that what is measured is what is shipped.

Only what the workload needs changes: the engine and its pace, limits that fit the streams, one replica of each deployment.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from benchmarks.serve.workload import Workload

CONFIG_NAME = "serve_config.yaml"


def read_config(path: Path) -> dict[str, Any]:
    """The configuration at `path`. Raises `OSError` and `ValueError`."""
    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict) or not config.get("applications"):
        raise ValueError(f"{path} is no configuration of Serve with an application")
    return config


def write_config(config: dict[str, Any], directory: Path) -> Path:
    path = directory / CONFIG_NAME
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def port_of(config: dict[str, Any]) -> int:
    return int((config.get("http_options") or {}).get("port", 8000))


def model_of(config: dict[str, Any]) -> str:
    """The name of the first model."""
    return str(config["applications"][0]["args"]["models"][0]["name"])


def for_simulation(
    config: dict[str, Any], workload: Workload, first_token_s: float, step_s: float
) -> dict[str, Any]:
    """`config` with the simulated engine at the given pace."""
    simulated = {"first_token_s": first_token_s, "step_s": step_s}
    return _adjusted(config, workload, {"engine": "simulated", "simulated": simulated})


def for_model(config: dict[str, Any], workload: Workload, model_path: Path) -> dict[str, Any]:
    """`config` with the model in the directory `model_path`."""
    return _adjusted(config, workload, {"engine": "transformers", "path": str(model_path)})


def in_default_mode(config: dict[str, Any]) -> dict[str, Any]:
    """`config` without Serve's flags: the Python proxy, and Ray's own calls between replicas."""
    changed = copy.deepcopy(config)
    changed.pop("controller_options", None)
    return changed


def for_application(config: dict[str, Any], import_path: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Another application under the same options of Serve."""
    changed = copy.deepcopy(config)
    changed["applications"] = [
        {"name": "baseline", "route_prefix": "/", "import_path": import_path, "args": arguments}
    ]
    return changed


def _adjusted(config: dict[str, Any], workload: Workload, model: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    arguments = changed["applications"][0]["args"]
    first = arguments["models"][0]
    streams = workload.clients + workload.readers_stalled
    longest_tokens = max(workload.tokens, workload.stalled_tokens if workload.readers_stalled else 0)
    length_tokens = max(
        int(first.get("max_model_len_tokens") or 0), workload.prompt_tokens + 64 + longest_tokens
    )
    room = {
        "max_running_sequences": max(streams, int(first.get("max_running_sequences", 0))),
        "max_waiting_sequences": max(streams, int(first.get("max_waiting_sequences", 0))),
        "min_replicas": 1,
        "max_replicas": 1,
    }
    if model["engine"] == "simulated":
        room["max_model_len_tokens"] = length_tokens
        room["kv_cache_tokens"] = max(int(first.get("kv_cache_tokens", 0)), streams * length_tokens)
    arguments["models"] = [first | model | room]
    limits = arguments.setdefault("limits", {})
    limits["max_streams_per_key"] = max(2 * streams, int(limits.get("max_streams_per_key", 0)))
    if limits.get("max_output_tokens") is not None:
        limits["max_output_tokens"] = max(longest_tokens, int(limits["max_output_tokens"]))
    return changed
