"""Which part of a server a process is, told from its name and title."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.serve.procfs import Process, ProcessKey

HAPROXY = "haproxy"
PROXY = "proxy"
INGRESS = "ingress"
GENERATOR = "generator"
TOKENIZER = "tokenizer"
STREAM_LOG = "stream log"
CONTROLLER = "controller"
RAYLET = "raylet"
GCS = "gcs"
DASHBOARD = "dashboard"
RAY_OTHER = "ray other"
DRIVER = "serve run"
SERVER = "server"

# What runs beside the way of a token, whether there is traffic or not.
RAY_RUNTIME = frozenset({RAYLET, GCS, DASHBOARD, RAY_OTHER, DRIVER})
ORDER = (
    HAPROXY, PROXY, INGRESS, TOKENIZER, GENERATOR, STREAM_LOG, SERVER, CONTROLLER, RAYLET, GCS, DASHBOARD, RAY_OTHER, DRIVER,
)  # fmt: skip

# Ray names a replica `ray::ServeReplica:<application>:<deployment>`, with the running method after it.
_REPLICA = re.compile(r"ray::ServeReplica:(?P<application>[^:]*):(?P<deployment>[^.\s]*)")
_REPLICA_ROLES = (
    ("ingress", INGRESS),
    ("generator", GENERATOR),
    ("tokenizer", TOKENIZER),
    ("streamlog", STREAM_LOG),
    ("stream_log", STREAM_LOG),
)
_RAY_TITLES = (
    ("ray::ServeController", CONTROLLER),
    ("ray::HAProxyManager", PROXY),
    ("ray::ProxyActor", PROXY),
    ("ray::DashboardAgent", DASHBOARD),
    ("dashboard", DASHBOARD),
    ("ray::", RAY_OTHER),
    ("/ray/", RAY_OTHER),
    ("serve run", DRIVER),
)


def role_of(process: Process) -> str:
    """The role of a server's process; a deployment with an unknown name is `replica <name>`."""
    if process.name == "haproxy":
        return HAPROXY
    if process.name == "raylet":
        return RAYLET
    if process.name == "gcs_server":
        return GCS
    if match := _REPLICA.search(process.title):
        return _replica_role(match["deployment"])
    title = process.title
    return next((role for part, role in _RAY_TITLES if part in title), SERVER)


def roles_of(processes: Mapping[ProcessKey, Process]) -> dict[ProcessKey, str]:
    """The role of each process; one that its own title doesn't tell has that of the process which started it."""
    by_pid = {key.pid: process for key, process in processes.items()}
    return {key: _inherited_role(process, by_pid) for key, process in processes.items()}


def _inherited_role(process: Process, by_pid: Mapping[int, Process]) -> str:
    seen = set()
    while (role := role_of(process)) == SERVER and process.key.pid not in seen and process.parent in by_pid:
        seen.add(process.key.pid)
        process = by_pid[process.parent]
    return role


def _replica_role(deployment: str) -> str:
    lowered = deployment.lower()
    return next((role for part, role in _REPLICA_ROLES if part in lowered), f"replica {deployment}")


def in_order(roles: set[str]) -> list[str]:
    """Roles in the order of a token's way; unknown ones last, by name."""
    return [role for role in ORDER if role in roles] + sorted(roles - set(ORDER))
