"""Which role a process has, told from names and titles as Ray 2.60 makes them."""

from __future__ import annotations

import pytest

from benchmarks.serve import roles
from benchmarks.serve.procfs import Process, ProcessKey


def process(title: str, name: str = "python", *, pid: int = 1, parent: int = 0) -> Process:
    return Process(
        key=ProcessKey(pid, 7), parent=parent, session=1, name=name, title=title, cpu_s=0.0, rss_bytes=0
    )


@pytest.mark.parametrize(
    ("title", "name", "role"),
    [
        ("haproxy -f /tmp/haproxy.cfg", "haproxy", roles.HAPROXY),
        ("raylet --port=1", "raylet", roles.RAYLET),
        ("gcs_server --port=1", "gcs_server", roles.GCS),
        ("ray::ServeReplica:streaming:Ingress", "ray::ServeRepl", roles.INGRESS),
        ("ray::ServeReplica:streaming:Ingress.handle_request", "ray::ServeRepl", roles.INGRESS),
        ("ray::ServeReplica:streaming:Generator:storyteller.handle", "ray::ServeRepl", roles.GENERATOR),
        ("ray::ServeReplica:streaming:Tokenizer:storyteller", "ray::ServeRepl", roles.TOKENIZER),
        ("ray::ServeReplica:streaming:StreamStore", "ray::ServeRepl", roles.STREAM_STORE),
        ("ray::ServeReplica:other:Filter.check", "ray::ServeRepl", "replica Filter"),
        ("ray::ServeController", "ray::ServeCont", roles.CONTROLLER),
        ("ray::ProxyActor", "ray::ProxyActo", roles.PROXY),
        ("ray::HAProxyManager.ready", "ray::HAProxyMa", roles.PROXY),
        ("ray::DashboardAgent", "ray::Dashboard", roles.DASHBOARD),
        ("ray::RuntimeEnvAgent", "ray::RuntimeEn", roles.RAY_OTHER),
        ("python /lib/ray/dashboard/dashboard.py --port=8265", "python", roles.DASHBOARD),
        ("python -u /lib/ray/_private/log_monitor.py", "python", roles.RAY_OTHER),
        ("python /bin/serve run config.yaml", "serve", roles.SERVE_RUN),
        ("python -m benchmarks.baselines.plain_starlette", "python", roles.SERVER),
    ],
)
def test_roles(title: str, name: str, role: str) -> None:
    assert roles.role_of(process(title, name)) == role


def test_a_process_without_a_telling_title_has_the_role_of_its_parent() -> None:
    family = [
        process("python /lib/ray/dashboard/dashboard.py", pid=1),
        process("python -c resource_tracker", pid=2, parent=1),
        process("sh", pid=3, parent=2),
        process("python -m server", pid=4, parent=9),
        process("worker", pid=5, parent=4),
    ]
    found = roles.roles_of({member.key: member for member in family})
    assert {key.pid: role for key, role in found.items()} == {
        1: roles.DASHBOARD,
        2: roles.DASHBOARD,
        3: roles.DASHBOARD,
        4: roles.SERVER,
        5: roles.SERVER,
    }


def test_the_order_is_the_token_s_way_and_unknown_roles_come_last() -> None:
    found = roles.in_order({"replica B", roles.GENERATOR, "replica A", roles.HAPROXY, roles.INGRESS})
    assert found == [roles.HAPROXY, roles.INGRESS, roles.GENERATOR, "replica A", "replica B"]
