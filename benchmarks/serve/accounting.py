"""What a server's processes used between two moments, by role."""

from __future__ import annotations

from time import perf_counter

import msgspec

from benchmarks.serve import procfs
from benchmarks.serve.procfs import Process, ProcessKey
from benchmarks.serve.roles import RAY_RUNTIME, roles_of


class Snapshot(msgspec.Struct, frozen=True):
    """A server's processes at one moment, and the CPU seconds of the whole machine up to then."""

    at_s: float
    processes: dict[ProcessKey, Process]
    machine_busy_s: float


class RoleUsage(msgspec.Struct, frozen=True):
    """What the processes of one role used. `rss_growth_bytes` is the growth of their memory."""

    processes: int
    cpu_s: float
    rss_bytes: int
    rss_growth_bytes: int


class Usage(msgspec.Struct, frozen=True):
    """What a server used in a window. `ended` has the roles of processes that ended within it; their last usage is missing."""

    window_s: float
    roles: dict[str, RoleUsage]
    machine_busy_s: float
    ended: list[str]

    @property
    def cpu_s(self) -> float:
        return sum(usage.cpu_s for usage in self.roles.values())

    @property
    def rss_growth_bytes(self) -> int:
        return sum(usage.rss_growth_bytes for usage in self.roles.values())

    @property
    def ray_runtime_cpu_s(self) -> float:
        """The part of Ray's own daemons: raylet, gcs, dashboard and others."""
        return sum(usage.cpu_s for role, usage in self.roles.items() if role in RAY_RUNTIME)


def take_snapshot(root: int, marker: str) -> Snapshot:
    """The processes that came from `root`, now."""
    at_s = perf_counter()
    processes = procfs.family(procfs.all_processes(), root, marker)
    return Snapshot(at_s, processes, procfs.busy_cpu_s())


def usage_between(before: Snapshot, after: Snapshot) -> Usage:
    """What was used from `before` to `after`. A process that started in between counts from its start."""
    role_by_key = roles_of(before.processes) | roles_of(after.processes)
    roles: dict[str, RoleUsage] = {}
    for key, process in after.processes.items():
        earlier = before.processes.get(key)
        role = role_by_key[key]
        so_far = roles.get(role, RoleUsage(0, 0.0, 0, 0))
        roles[role] = RoleUsage(
            processes=so_far.processes + 1,
            cpu_s=so_far.cpu_s + process.cpu_s - (earlier.cpu_s if earlier else 0.0),
            rss_bytes=so_far.rss_bytes + process.rss_bytes,
            rss_growth_bytes=so_far.rss_growth_bytes
            + process.rss_bytes
            - (earlier.rss_bytes if earlier else 0),
        )
    gone = before.processes.keys() - after.processes.keys()
    return Usage(
        window_s=after.at_s - before.at_s,
        roles=roles,
        machine_busy_s=after.machine_busy_s - before.machine_busy_s,
        ended=sorted(role_by_key[key] for key in gone),
    )
