"""What is used between two snapshots."""

from __future__ import annotations

import pytest

from benchmarks.serve.accounting import RoleUsage, Snapshot, usage_between
from benchmarks.serve.procfs import Process, ProcessKey


def snapshot(at_s: float, busy_s: float, *processes: tuple[int, str, float, int]) -> Snapshot:
    found = [
        Process(ProcessKey(pid, 1), 0, pid, name, name, cpu_s, rss_bytes)
        for pid, name, cpu_s, rss_bytes in processes
    ]
    return Snapshot(at_s, {process.key: process for process in found}, busy_s)


def test_usage_by_role() -> None:
    before = snapshot(10.0, 100.0, (1, "haproxy", 5.0, 1000), (2, "server", 1.0, 50), (3, "raylet", 1.0, 10))
    after = snapshot(
        12.0,
        103.5,
        (1, "haproxy", 5.5, 1500),
        (4, "haproxy", 0.25, 300),
        (2, "server", 2.0, 40),
        (5, "raylet", 9.0, 1),
    )
    usage = usage_between(before, after)
    assert usage.roles == {
        "haproxy": RoleUsage(processes=2, cpu_s=0.75, rss_bytes=1800, rss_growth_bytes=800),
        "server": RoleUsage(processes=1, cpu_s=1.0, rss_bytes=40, rss_growth_bytes=-10),
        "raylet": RoleUsage(processes=1, cpu_s=9.0, rss_bytes=1, rss_growth_bytes=1),
    }
    assert (usage.window_s, usage.machine_busy_s, usage.ended) == (2.0, 3.5, ["raylet"])
    assert usage.cpu_s == pytest.approx(10.75)
    assert usage.ray_runtime_cpu_s == 9.0
    assert usage.rss_growth_bytes == 791
