"""The number of generator replicas, from the sequences that they report.

Serve counts calls through its handles. Jobs travel on links, so the replicas count their sequences themselves. Serve ships the
policy by value to its controller, which can import nothing else of this project.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

SEQUENCES = "sequences"
"""Name of the metric that the replicas report."""


def sequences_policy(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's own policy, with sequences in place of calls: `target_ongoing_requests` of them for each replica.

    The number stays until a replica has reported. Serve applies bounds, delays and smoothing to the result.
    """
    reports = (context.aggregated_metrics or {}).get(SEQUENCES)
    if not reports:
        return context.target_num_replicas, {}
    assert context.config is not None
    return sum(reports.values()) / context.config.get_target_ongoing_requests(), {}
