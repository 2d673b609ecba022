"""How a call finds its replica: by load, or by name.

A call with a `session_id` goes to the replica of that unique id, as those do that ask where it can be linked to. All others go
to the one with the fewest open calls.

Serve ships the router class by value, so a class or a variable of this module is another one in every process that routes:
what must be shared lives in `deployments.ingress.replicas`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from deployments.ingress.replicas import ReplicaDirectory, ReplicaGone, directory_of


class ReplicaRouter(RequestRouter):
    """Serve's request router of the deployments that the ingress calls. Publishes the replicas of one in its directory."""

    _directory: ReplicaDirectory

    def initialize_state(self, **kwargs: Any) -> None:
        self._directory = directory_of(self._deployment_id.app_name, self._deployment_id.name)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._publish(self._replicas)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._publish(self._replicas)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        target = pending_request.metadata.session_id if pending_request is not None else ""
        if not target:
            return [candidate_replicas]
        named = [replica for replica in candidate_replicas if replica.replica_id.unique_id == target]
        if named:
            return [named]
        assert pending_request is not None
        if not pending_request.future.done():
            # The router would go on for ever on an empty answer, and hang on an exception.
            pending_request.future.set_exception(ReplicaGone(target))
        return [candidate_replicas]

    def _publish(self, replica_ids: Iterable[ReplicaID]) -> None:
        self._directory.publish(replica_id.unique_id for replica_id in replica_ids)
