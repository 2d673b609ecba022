"""The policy as Serve has it: shipped by value, and with Serve's own bounds, delays and factors around it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from deployments.builder import SEQUENCES_POLICY
from deployments.generator.autoscaling import SEQUENCES, sequences_policy

GENERATOR = DeploymentID("Generator:storyteller", "streaming")


def context(
    reports: list[float] | None, *, target: int, policy_state: dict[str, Any] | None = None
) -> AutoscalingContext:
    """`target` replicas of which each is content with 20 sequences."""
    replicas = [ReplicaID(f"r{number}", GENERATOR) for number in range(target)]
    metrics = None if reports is None else {SEQUENCES: dict(zip(replicas, reports, strict=False))}
    return AutoscalingContext(
        deployment_id=GENERATOR,
        deployment_name=GENERATOR.name,
        app_name=GENERATOR.app_name,
        current_num_replicas=target,
        target_num_replicas=target,
        running_replicas=replicas,
        total_num_requests=0,
        total_queued_requests=0,
        aggregated_metrics=metrics,
        raw_metrics=None,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4,
        policy_state=policy_state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=AutoscalingConfig(
            max_replicas=4, target_ongoing_requests=20, upscale_delay_s=0, downscale_delay_s=0
        ),
    )


@pytest.mark.parametrize(
    ("reports", "replicas", "wanted"),
    [
        ([20.0], 1, 1.0),
        ([45.0], 1, 2.25),
        ([30.0, 0.0], 2, 1.5),
        ([0.0, 0.0], 2, 0.0),
        ([], 3, 3.0),
        (None, 3, 3.0),
    ],
)
def test_replicas_follow_the_sequences_they_report(
    reports: list[float] | None, replicas: int, wanted: float
) -> None:
    assert sequences_policy(context(reports, target=replicas)) == (wanted, {})


@pytest.mark.parametrize(("reports", "replicas", "target"), [([45.0], 1, 3), ([5.0, 0.0], 2, 1)])
def test_serve_applies_it(reports: list[float], replicas: int, target: int) -> None:
    policy = pickle.loads(pickle.dumps(AutoscalingPolicy(policy_function=SEQUENCES_POLICY))).get_policy()
    decided, _ = _apply_autoscaling_config(policy)(context(reports, target=replicas))
    assert decided == target
