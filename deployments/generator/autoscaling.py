"""The number of generator replicas, from what their engines report.

Serve counts calls through its handles. Jobs travel on links, so the replicas report what their engines hold. Serve ships the
policy by value to its controller, which can import nothing else of this project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

TARGET_MEMORY = 0.9
"""Share of the key-value memory beyond which another replica is wanted."""
LONGEST_QUEUE_S = 1.0
MARGIN = 0.7
"""Share of the places, and of `TARGET_MEMORY`, that the load may take of the replicas that are left when one goes."""


class Load(NamedTuple):
    """What one replica reports; the names of the fields are those of Serve's metrics.

    `places`: its sequences, waiting and paused ones included, for each place in its batch. `memory`: the share of the key-value
    memory that is used. `queue_s`: how long its oldest waiting sequence has waited.
    """

    places: float
    memory: float
    queue_s: float


def engine_policy(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Serve's policy for the generators: `wanted_replicas` of the latest reports.

    Serve acts when the number has differed for `upscale_delay_s` or `downscale_delay_s` on end, and applies the bounds. It starts
    a first replica for a call that waits for one without asking here.
    """
    if not context.running_replicas:
        return 0, {}  # nobody waits for a replica, or the bounds say that there must be one
    reports = context.raw_metrics or {}
    loads = []
    for replica in context.running_replicas:
        series = [reports.get(name, {}).get(replica) for name in Load._fields]
        if not all(series):
            # A replica that has just started: nobody knows yet how much of the load it takes.
            return context.target_num_replicas, {}
        loads.append(Load(*(points[-1].value for points in series if points)))
    return wanted_replicas(loads, context.target_num_replicas), {}


def wanted_replicas(loads: Sequence[Load], target: int) -> int:
    """The number of replicas for `loads`, those of all that run, of which there is at least one; `target` if it may stay.

    Streams don't move to a new replica. So what waits at one replica while another has room is no reason for a third.
    """
    running = len(loads)
    places = sum(load.places for load in loads)
    memory = sum(load.memory for load in loads)
    if places == 0:
        return 0
    used_up = places >= running or memory > TARGET_MEMORY * running
    if used_up or min(load.queue_s for load in loads) > LONGEST_QUEUE_S:
        return max(target, running + 1, math.ceil(places))
    if max(load.queue_s for load in loads) > LONGEST_QUEUE_S:
        return target
    fewest = max(1, math.ceil(places / MARGIN), math.ceil(memory / (MARGIN * TARGET_MEMORY)))
    return min(target, fewest) if fewest < running else target
