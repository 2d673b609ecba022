"""How many threads of the CPU an engine computes with. This file imports no torch.

Ray sets OMP_NUM_THREADS to the CPUs that a replica asks for, so torch would use one by default. The number follows from the
configuration, the machine and the model, never from the load: the results of matrix products may depend on it, and two replicas
of one model must compute the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SMALL_MODEL_PARAMETERS = 30_000_000
"""A step of a smaller model is thousands of tiny products. To hand each to several threads costs more than it gains, and many
times as much where other processes want the cores.
"""


@dataclass(frozen=True, slots=True)
class Threads:
    """`setting` is a number or "auto". `replicas` generator replicas may run on this machine besides each other."""

    setting: int | Literal["auto"]
    replicas: int
    cpus_per_replica: float = 1.0

    def number(self, parameters: int, cores: int) -> int:
        """The threads of a model with so many parameters on a machine with `cores` cores."""
        if self.setting != "auto":
            return self.setting
        if parameters < SMALL_MODEL_PARAMETERS:
            return 1
        fitting = max(1, int(cores / self.cpus_per_replica))
        return max(1, cores // min(self.replicas, fitting))


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text("ascii").split()
        return min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup of version 2, or "max"
        return cores
