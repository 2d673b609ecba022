"""The router's choice, on Serve's own class without its cluster."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest, RunningReplica

from deployments.ingress.replicas import ReplicaGone, directory_of
from deployments.ingress.router import ReplicaRouter

DEPLOYMENT = DeploymentID(name="Generator:test", app_name="streaming")


@dataclass(frozen=True)
class FakeReplica:
    replica_id: ReplicaID


def replicas(*names: str) -> list[RunningReplica]:
    return cast(list[RunningReplica], [FakeReplica(ReplicaID(name, DEPLOYMENT)) for name in names])


def names(ranked: list[list[RunningReplica]]) -> list[str]:
    return [replica.replica_id.unique_id for rank in ranked for replica in rank]


def router() -> ReplicaRouter:
    made = ReplicaRouter(deployment_id=DEPLOYMENT, handle_source=DeploymentHandleSource.REPLICA)
    made.initialize_state()
    return made


def pending(session_id: str) -> PendingRequest:
    metadata = RequestMetadata(request_id="r", internal_request_id="i", session_id=session_id)
    return PendingRequest(
        args=[], kwargs={}, metadata=metadata, future=asyncio.get_running_loop().create_future()
    )


def choose(candidates: list[RunningReplica], session_id: str = "") -> tuple[list[str], PendingRequest]:
    async def main() -> tuple[list[str], PendingRequest]:
        request = pending(session_id)
        return names(await router().choose_replicas(candidates, request)), request

    return asyncio.run(main())


def test_a_named_replica_is_the_only_choice() -> None:
    assert choose(replicas("a", "b", "c"), "b")[0] == ["b"]


def test_a_named_replica_that_is_gone_fails_the_call() -> None:
    async def main() -> None:
        request = pending("gone")
        await router().choose_replicas(replicas("a"), request)
        with pytest.raises(ReplicaGone):
            await request.future

    asyncio.run(main())


def test_others_may_go_to_any_replica() -> None:
    assert choose(replicas("a", "b", "c"))[0] == ["a", "b", "c"]


def test_the_list_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        made = router()

        async def no_probe(*_: Any) -> list[Any]:
            return []

        monkeypatch.setattr(made, "_probe_queue_lens", no_probe)
        directory = directory_of(DEPLOYMENT.app_name, DEPLOYMENT.name)
        made.update_replicas(replicas("x", "y"))
        assert directory.replicas == {"x", "y"}
        made.on_replica_actor_died(ReplicaID("x", DEPLOYMENT))
        assert directory.replicas == {"y"}
        await asyncio.sleep(0)

    asyncio.run(main())
