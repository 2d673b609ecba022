"""Builds the application from the `args` of its entry in `serve_config.yaml`.

The annotation of `build_app` must be the class itself for Serve to validate the arguments with it, so this module does not
postpone annotations.
"""

from typing import Any

import ray
from ray import serve
from ray.serve import Application

from app.settings import ModelSettings, Settings
from app.streams.store_bounds import StoreBounds
from deployments.generator.deployment import Generator
from deployments.ingress.deployment import Ingress
from deployments.stream_store.deployment import StreamStore
from deployments.stream_store.replica_ids import ReplicaIds
from deployments.tokenizer.deployment import Tokenizer

ROUTER = {"request_router_class": "deployments.ingress.router.ReplicaRouter"}
BACKPRESSURE = {"status_code": 503, "retry_after_s": 1}
ENGINE_POLICY = "deployments.generator.autoscaling:engine_policy"
LOOK_BACK_S = 11
INGRESS = "Ingress"
INGRESS_ONGOING = 4096
INGRESS_QUEUED = 256
DRAIN_MARGIN_S = 10
LINKED: dict[str, Any] = {
    "max_ongoing_requests": 64,
    "max_queued_requests": 256,
    "backpressure_config": BACKPRESSURE,
    "request_router_config": ROUTER,
    "logging_config": {"enable_access_log": False},
}
"""Of deployments that work over links, which have bounds of their own: Serve's calls only ask what they are, and where.

The ingress logs requests; a line for each call after it would cost more than it tells.
"""


def build_app(args: Settings) -> Application:
    """The graph: one tokenizer and one generator deployment for each model, the store, and the ingress that calls them.

    With `streams.backend: redis` the store is no deployment, and the ingress gets none.
    """
    labels = _labels(args)
    replicas = sum(model.max_replicas for model in args.models if model.engine != "simulated")
    tokenizers = {
        model.name: serve.deployment(
            name=f"Tokenizer:{labels[model.name]}",
            num_replicas=model.tokenizer_replicas,
            **LINKED,
            ray_actor_options={"num_cpus": 0},
        )(Tokenizer).bind(model)
        for model in args.models
    }
    generators = {
        model.name: serve.deployment(
            name=f"Generator:{labels[model.name]}",
            **LINKED,
            graceful_shutdown_timeout_s=args.limits.request_timeout_s + DRAIN_MARGIN_S,
            ray_actor_options=_actor_options(model),
            **_scale(model),
        )(Generator).bind(model, replicas)
        for model in args.models
    }
    store = None
    if args.streams.backend == "memory":
        store = serve.deployment(
            name="StreamStore",
            num_replicas=1,  # one memory; with two, each would know half of the streams
            **LINKED,
            ray_actor_options={"num_cpus": 0},
        )(StreamStore).bind(StoreBounds.from_settings(args), ReplicaIds(INGRESS))
    ingress = serve.deployment(
        name=INGRESS,
        num_replicas=args.ingress.replicas,
        max_ongoing_requests=INGRESS_ONGOING,
        max_queued_requests=INGRESS_QUEUED,
        backpressure_config=BACKPRESSURE,
        graceful_shutdown_timeout_s=args.limits.request_timeout_s + DRAIN_MARGIN_S,
        # Small machines must have room for the generators; an ingress is bound by its single thread anyway.
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    return ingress.bind(args, tokenizers, generators, store)


def _labels(args: Settings) -> dict[str, str]:
    """The models' names as parts of deployment names, which are also file names. Different for different models."""
    labels = {}
    for model in args.models:
        label = model.name.replace("/", "--")
        same = [other.name for other in args.models if other.name.replace("/", "--") == label]
        labels[model.name] = label if len(same) == 1 else f"{label}--{same.index(model.name)}"
    return labels


def _scale(model: ModelSettings) -> dict[str, Any]:
    if model.min_replicas == model.max_replicas:
        return {"num_replicas": model.min_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": model.min_replicas,
            "max_replicas": model.max_replicas,
            "upscale_delay_s": model.upscale_delay_s,
            "downscale_delay_s": model.downscale_delay_s,
            "policy": {"policy_function": ENGINE_POLICY},
            # A call that waited for a first replica counts for so long. Serve warns of less than 10.
            "look_back_period_s": LOOK_BACK_S,
        }
    }


def _actor_options(model: ModelSettings) -> dict[str, float]:
    options = {"num_cpus": model.cpus_per_replica}
    if model.engine == "transformers" and (
        model.device == "cuda" or (model.device == "auto" and _cluster_has_gpu())
    ):
        options["num_gpus"] = model.gpus_per_replica
    return options


def _cluster_has_gpu() -> bool:
    return ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0
