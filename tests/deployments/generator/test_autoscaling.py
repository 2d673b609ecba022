"""The policy alone, and as Serve has it: shipped by value, and with Serve's own bounds, delays and factors around it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from deployments.builder import ENGINE_POLICY
from deployments.generator.autoscaling import LONGEST_QUEUE_S, Load, engine_policy, wanted_replicas

GENERATOR = DeploymentID("Generator:storyteller", "streaming")
IDLE = Load(0.0, 0.0, 0.0)
BUSY = Load(0.8, 0.5, 0.0)


@pytest.mark.parametrize(
    ("loads", "target", "wanted"),
    [
        # Places.
        ([Load(0.99, 0.5, 0.0)], 1, 1),
        ([Load(1.0, 0.5, 0.0)], 1, 2),
        ([Load(2.4, 0.5, 0.0)], 1, 3),
        ([Load(1.4, 0.5, 0.0), IDLE], 2, 2),
        ([Load(1.4, 0.5, 0.0), Load(0.6, 0.2, 0.0)], 2, 3),
        # Memory.
        ([Load(0.5, 0.9, 0.0)], 1, 1),
        ([Load(0.5, 0.91, 0.0)], 1, 2),
        ([Load(0.5, 0.91, 0.0), Load(0.5, 0.2, 0.0)], 2, 2),
        # The queue. While one replica has none, new requests go there.
        ([Load(0.5, 0.5, 1.0)], 1, 1),
        ([Load(0.5, 0.5, 1.1)], 1, 2),
        ([Load(0.5, 0.5, 5.0), Load(0.5, 0.5, 0.0)], 2, 2),
        ([Load(0.5, 0.5, 5.0), Load(0.5, 0.5, 1.1)], 2, 3),
        # One that starts is not followed by another for the same reason.
        ([Load(1.0, 0.5, 9.0)], 2, 2),
        ([Load(3.5, 0.5, 9.0)], 2, 4),
        # Fewer: what is left has room to spare.
        ([Load(0.4, 0.3, 0.0), Load(0.3, 0.3, 0.0)], 2, 1),
        ([Load(0.4, 0.3, 0.0), Load(0.31, 0.3, 0.0)], 2, 2),
        ([Load(0.3, 0.32, 0.0), Load(0.3, 0.32, 0.0)], 2, 2),
        ([Load(0.1, 0.1, 2.0), IDLE], 2, 2),
        ([Load(0.1, 0.1, 0.0), IDLE, IDLE, IDLE], 4, 1),
        ([BUSY, BUSY, IDLE, IDLE], 4, 3),
        ([BUSY, BUSY, IDLE], 2, 2),
        # None.
        ([IDLE], 1, 0),
        ([IDLE, IDLE], 2, 0),
    ],
)
def test_the_number_follows_the_load(loads: list[Load], target: int, wanted: int) -> None:
    assert wanted_replicas(loads, target) == wanted


share = st.floats(0, 4, allow_subnormal=False)


@given(
    st.lists(st.builds(Load, share, st.floats(0, 1), st.floats(0, LONGEST_QUEUE_S)), min_size=1, max_size=8)
)
@example([Load(0.0, 1.0, 0.0)])
def test_the_number_does_not_swing(loads: list[Load]) -> None:
    """When the load has spread over the replicas that were wanted, it wants neither more nor fewer of them."""
    wanted = wanted_replicas(loads, len(loads))
    if wanted > 0:
        places, memory = (sum(each) / wanted for each in list(zip(*loads, strict=True))[:2])
        after = wanted_replicas([Load(places, memory, 0.0)] * wanted, wanted)
        assert after <= wanted if wanted < len(loads) else after >= wanted


def context(loads: Sequence[Load | None], *, target: int) -> AutoscalingContext:
    """Of replicas that have reported `loads`, or not yet."""
    replicas = [ReplicaID(f"r{number}", GENERATOR) for number in range(len(loads))]
    reports: dict[str, Any] = {}
    for replica, load in zip(replicas, loads, strict=True):
        for name, value in ({} if load is None else load._asdict()).items():
            series = [TimeStampedValue(1.0, 77.0), TimeStampedValue(2.0, value)]
            reports.setdefault(name, {})[replica] = series
    return AutoscalingContext(
        deployment_id=GENERATOR,
        deployment_name=GENERATOR.name,
        app_name=GENERATOR.app_name,
        current_num_replicas=len(replicas),
        target_num_replicas=target,
        running_replicas=replicas,
        total_num_requests=0,
        total_queued_requests=0,
        aggregated_metrics=None,
        raw_metrics=reports or None,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=4,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=0.0,
        config=AutoscalingConfig(
            min_replicas=0, max_replicas=4, upscale_delay_s=0, downscale_delay_s=0, look_back_period_s=11
        ),
    )


@pytest.mark.parametrize(
    ("loads", "target", "wanted"),
    [
        ([Load(1.5, 0.5, 3.0)], 1, 2),
        ([None], 1, 1),
        ([Load(1.5, 0.5, 3.0), None], 2, 2),
        ([Load(0.1, 0.1, 0.0), None, None], 3, 3),
        ([], 0, 0),
        ([], 2, 0),
    ],
)
def test_the_latest_reports_count_when_all_have_reported(
    loads: list[Load | None], target: int, wanted: int
) -> None:
    assert engine_policy(context(loads, target=target)) == (wanted, {})


@pytest.mark.parametrize(
    ("loads", "target", "decided"),
    [([Load(2.2, 0.5, 3.0)], 1, 3), ([BUSY, IDLE], 2, 2), ([IDLE, IDLE], 2, 1), ([IDLE], 1, 0)],
)
def test_serve_applies_it(loads: list[Load], target: int, decided: int) -> None:
    policy = pickle.loads(pickle.dumps(AutoscalingPolicy(policy_function=ENGINE_POLICY))).get_policy()
    applied, _ = _apply_autoscaling_config(policy)(context(loads, target=target))
    assert applied == decided
