from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as call_builder
from ray.serve.schema import ServeDeploySchema

from app.settings import Settings
from deployments.builder import build_app
from deployments.generator.autoscaling import engine_policy

BUILDER: Any = build_app
CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return loaded


def arguments() -> dict[str, Any]:
    found: dict[str, Any] = config()["applications"][0]["args"]
    return found


def deployments(settings: Settings) -> dict[str, Any]:
    """The deployments of the application by name."""
    ingress: Any = build_app(settings)._bound_deployment
    _, tokenizers, generators, store = ingress.init_args
    behind = [*tokenizers.values(), *generators.values(), *([] if store is None else [store])]
    bound = [ingress, *(each._bound_deployment for each in behind)]
    return {deployment.name: deployment for deployment in bound}


def test_shipped_arguments_are_the_defaults_spelled_out() -> None:
    assert Settings.model_validate(arguments()) == Settings()
    assert _leaves(arguments()) == _leaves(Settings().model_dump())


def _leaves(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _leaves(value) for key, value in tree.items()}
    return [_leaves(value) for value in tree] if isinstance(tree, list) else None


def test_serve_knows_every_key_of_the_shipped_configuration() -> None:
    loaded = config()
    known = ServeDeploySchema.model_validate(loaded).model_dump(exclude_unset=True, mode="json")
    assert _unknown(loaded, known) == []


def _unknown(given: Any, known: Any, path: str = "") -> list[str]:
    if not isinstance(given, dict):
        return []
    missing = [f"{path}{key}" for key in given if key not in known]
    return missing + [
        each for key in given if key in known for each in _unknown(given[key], known[key], f"{path}{key}.")
    ]


def test_streams_outlive_every_limit_of_serve() -> None:
    loaded, settings = config(), Settings.model_validate(arguments())
    variables = loaded["controller_options"]["runtime_env"]["env_vars"]
    assert int(variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) >= settings.limits.request_timeout_s
    assert loaded["http_options"]["request_timeout_s"] is None
    for deployment in (deployments(settings)[name] for name in ("Ingress", "Generator:storyteller")):
        config_ = deployment._deployment_config
        assert config_.graceful_shutdown_timeout_s >= settings.limits.request_timeout_s


def test_serve_builds_with_validated_arguments() -> None:
    application = call_builder(BUILDER, {"models": [{"name": "a"}]})
    assert application._bound_deployment.name == "Ingress"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"limit": {}}, "limit\n"),
        ({"limits": {"max_tokens": 1}}, "limits.max_tokens"),
        ({"models": [{"name": "a", "replicas": 2}]}, "models.0.replicas"),
        ({"models": [{"name": "a", "simulated": {"step_ms": 2}}]}, "models.0.simulated.step_ms"),
        (
            {"models": [{"name": "a", "min_replicas": 3, "max_replicas": 2}]},
            "max_replicas (2) is below min_replicas (3)",
        ),
        ({"streams": {"backend": "redis"}}, "streams.backend: redis needs streams.redis_url"),
        (
            {"streams": {"redis_url": "redis://localhost"}},
            "streams.redis_url is set, but streams.backend is memory",
        ),
    ],
)
def test_a_wrong_key_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        call_builder(BUILDER, wrong)
    assert named in str(caught.value)


def test_each_model_has_its_deployments() -> None:
    models: list[dict[str, Any]] = [{"name": "org/a"}, {"name": "org--a"}, {"name": "b"}]
    built = deployments(Settings.model_validate({"models": models}))
    assert set(built) == {
        "Ingress",
        "StreamStore",
        *(
            f"{kind}:{label}"
            for kind in ("Tokenizer", "Generator")
            for label in ("org--a--0", "org--a--1", "b")
        ),
    }


def test_the_log_in_memory_is_one_process_with_the_bounds_of_the_settings() -> None:
    settings = Settings.model_validate({"streams": {"max_streams": 7, "retention_s": 5, "lease_s": 2}})
    store = deployments(settings)["StreamStore"]
    assert (store.num_replicas, store._deployment_config.autoscaling_config) == (1, None)
    bounds, producers = store.init_args
    assert producers.deployment in deployments(settings)
    assert (bounds.max_streams, bounds.retention_s, bounds.lease_s) == (7, 5, 2)


def test_with_redis_there_is_no_log_among_the_deployments() -> None:
    redis = {"backend": "redis", "redis_url": "redis://127.0.0.1:6379/0"}
    assert "StreamStore" not in deployments(Settings.model_validate({"streams": redis}))


def test_nothing_queues_without_bound() -> None:
    for deployment in deployments(Settings()).values():
        config_ = deployment._deployment_config
        assert config_.max_queued_requests > 0 and config_.max_ongoing_requests > 0
        assert config_.backpressure_config.status_code == 503


def test_autoscaling_follows_the_model() -> None:
    models = [
        {"name": "one", "min_replicas": 2, "max_replicas": 2},
        {"name": "two", "min_replicas": 0, "max_replicas": 4, "upscale_delay_s": 3, "downscale_delay_s": 7},
    ]
    built = deployments(Settings.model_validate({"models": models}))
    assert built["Generator:one"].num_replicas == 2
    scaling = built["Generator:two"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 4)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s) == (3, 7)
    assert scaling.policy.get_policy().__name__ == engine_policy.__name__


@pytest.mark.parametrize(
    ("model", "gpus_in_cluster", "expected"),
    [
        ({"device": "auto"}, 0, {"num_cpus": 1.0}),
        ({"device": "auto"}, 1, {"num_cpus": 1.0, "num_gpus": 0.5}),
        ({"device": "cpu"}, 1, {"num_cpus": 1.0}),
        ({"device": "cuda"}, 0, {"num_cpus": 1.0, "num_gpus": 0.5}),
        ({"device": "auto", "engine": "simulated"}, 1, {"num_cpus": 1.0}),
    ],
)
def test_a_generator_takes_a_gpu_when_there_is_one(
    model: dict[str, Any], gpus_in_cluster: int, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.builder._cluster_has_gpu", lambda: gpus_in_cluster > 0)
    built = deployments(
        Settings.model_validate({"models": [{"name": "m", "gpus_per_replica": 0.5, **model}]})
    )
    assert built["Generator:m"].ray_actor_options == expected


def test_the_builder_can_be_annotated() -> None:
    assert issubclass(build_app.__annotations__["args"], BaseModel)
