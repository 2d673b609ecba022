"""The role of a server's process, from its name and title."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.serve.procfs import Process, ProcessKey

HAPROXY = "haproxy"
PROXY = "proxy"
INGRESS = "ingress"
GENERATOR = "generator"
TOKENIZER = "tokenizer"
STREAM_STORE = "stream store"
CONTROLLER = "controller"
RAYLET = "raylet"
GCS = "gcs"
DASHBOARD = "dashboard"
RAY_OTHER = "ray other"
SERVE_RUN = "serve run"
SERVER = "server"

# Ray's own daemons: they do not handle tokens, and they work without traffic too.
RAY_RUNTIME = frozenset({RAYLET, GCS, DASHBOARD, RAY_OTHER, SERVE_RUN})
ORDER = (
    HAPROXY, PROXY, INGRESS, TOKENIZER, GENERATOR, STREAM_STORE, SERVER, CONTROLLER, RAYLET, GCS, DASHBOARD, RAY_OTHER, SERVE_RUN,
)  # fmt: skip

# Ray names a replica `ray::ServeReplica:<application>:<deployment>`, with the running method after it.
_REPLICA = re.compile(r"ray::ServeReplica:(?P<application>[^:]*):(?P<deployment>[^.\s]*)")
_REPLICA_ROLES = (
    ("ingress", INGRESS),
    ("generator", GENERATOR),
    ("tokenizer", TOKENIZER),
    ("streamstore", STREAM_STORE),
)
_RAY_TITLES = (
    ("ray::ServeController", CONTROLLER),
    ("ray::HAProxyManager", PROXY),
    ("ray::ProxyActor", PROXY),
    ("ray::DashboardAgent", DASHBOARD),
    ("dashboard", DASHBOARD),
    ("ray::", RAY_OTHER),
    ("/ray/", RAY_OTHER),
    ("serve run", SERVE_RUN),
)


def role_of(process: Process) -> str:
    """The role of a process; a deployment with an unknown name has the role `replica <name>`."""
    if process.name == "haproxy":
        return HAPROXY
    if process.name == "raylet":
        return RAYLET
    if process.name == "gcs_server":
        return GCS
    if match := _REPLICA.search(process.title):
        deployment = match["deployment"]
        parts = deployment.lower()
        return next((role for part, role in _REPLICA_ROLES if part in parts), f"replica {deployment}")
    title = process.title
    return next((role for part, role in _RAY_TITLES if part in title), SERVER)


def roles_of(processes: Mapping[ProcessKey, Process]) -> dict[ProcessKey, str]:
    """The role of each process; a process whose title has no role has that of its parent."""
    by_pid = {key.pid: process for key, process in processes.items()}
    roles = {}
    for key, process in processes.items():
        seen = set()
        while (role := role_of(process)) == SERVER and process.key.pid not in seen:
            seen.add(process.key.pid)
            process = by_pid.get(process.parent, process)
        roles[key] = role
    return roles


def in_order(roles: set[str]) -> list[str]:
    """Roles in the order of a token's path; unknown roles last, by name."""
    return [role for role in ORDER if role in roles] + sorted(roles - set(ORDER))
