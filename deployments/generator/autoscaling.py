"""How many generator replicas there should be, by the sequences that they report.

Serve counts calls through its handles. Jobs travel on links, so the replicas count for themselves. Serve ships the policy by
value to its controller, which has nothing else of this project.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

SEQUENCES = "sequences"


def sequences_policy(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's own policy with sequences for calls: `target_ongoing_requests` of them for each replica.

    Until one has reported, the number stays. Bounds, delays and smoothing are applied by Serve to what this returns.
    """
    reports = (context.aggregated_metrics or {}).get(SEQUENCES)
    if not reports:
        return context.target_num_replicas, {}
    assert context.config is not None
    return sum(reports.values()) / context.config.get_target_ongoing_requests(), {}
