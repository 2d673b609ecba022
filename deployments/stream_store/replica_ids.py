"""The replicas of a deployment as Ray knows them: also those that start and those that drain, which Serve does not list."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray import serve
from ray.serve._private.common import DeploymentID, ReplicaID


@dataclass(frozen=True)
class ReplicaIds:
    """Called in a replica, it returns the ids of the replicas of another deployment of its application."""

    deployment: str

    def __call__(self) -> list[str]:
        deployment = DeploymentID(self.deployment, serve.get_replica_context().app_name)
        names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
        replicas = [ReplicaID.from_full_id_str(name) for name in names if ReplicaID.is_full_id_str(name)]
        return [replica.unique_id for replica in replicas if replica.deployment_id == deployment]
