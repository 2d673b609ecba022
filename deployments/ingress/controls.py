"""Pausing, resuming and steering jobs, and ending their choices. The operations of one tick go to a replica in one call, one
call at a time.

A lost pause is harmless, a lost end wastes a place, a lost resume is a stream that never ends, and a lost steering breaks a
promise. So a failed call is repeated until the last operation on each job has arrived, or the replica is gone. A call that failed
may have been carried out: pauses, resumes and ends can be repeated, and a replica applies each steering once, by its id.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Literal

from app.backoff import Backoff
from app.schema.tokens import Steering
from deployments.ingress.detached_task import detached_task
from deployments.ingress.replica_links import ReplicaLinks
from deployments.ingress.replicas import ReplicaGone
from deployments.messages.call import decode_reply, encode
from deployments.messages.generation import Control, ControlOperation

logger = logging.getLogger(__name__)

RETRY_S = 0.2
GIVE_UP_AFTER_S = 5.0

Action = Literal["pause", "resume"]


@dataclass
class _Waiting:
    """The operations that one replica does not have yet: the last action on each job, and all steerings and ends in order."""

    actions: dict[int, Action] = field(default_factory=dict)
    ordered: list[ControlOperation] = field(default_factory=list)

    def operations(self) -> list[ControlOperation]:
        return [*self.ordered, *(ControlOperation(key, action) for key, action in self.actions.items())]

    def after(self, earlier: _Waiting) -> _Waiting:
        """Both, when `earlier` has to be sent again."""
        return _Waiting(earlier.actions | self.actions, earlier.ordered + self.ordered)


class ControlSender:
    """The operations that one ingress process has for the replicas of one deployment."""

    def __init__(self, links: ReplicaLinks, ingress: str) -> None:
        self._links = links
        self._ingress = ingress
        self._waiting: dict[str, _Waiting] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def send(self, replica: str, key: int, action: Action) -> None:
        """Applies `action` to a job. Returns at once. A later action on the same job replaces one that still waits."""
        self._for(replica).actions[key] = action

    def steer(self, replica: str, key: int, steering: Steering) -> None:
        """Inserts tokens into a job, after those of earlier calls. Returns at once."""
        self._for(replica).ordered.append(ControlOperation(key, "steer", steering))

    def end(self, replica: str, key: int, choice: int) -> None:
        """Ends one choice of a job. Returns at once."""
        self._for(replica).ordered.append(ControlOperation(key, "end", choice=choice))

    def close(self) -> None:
        """Drops the operations that have not arrived. Idempotent."""
        self._waiting.clear()
        for task in self._tasks.values():
            task.cancel()

    def _for(self, replica: str) -> _Waiting:
        """The operations that wait for `replica`. A task sends them in the next tick."""
        if replica not in self._tasks:
            self._tasks[replica] = detached_task(self._deliver(replica))
        return self._waiting.setdefault(replica, _Waiting())

    async def _deliver(self, replica: str) -> None:
        backoff = Backoff(RETRY_S)
        try:
            while replica in self._waiting and backoff.waited_s < GIVE_UP_AFTER_S:
                waiting = self._waiting.pop(replica)
                request = Control(self._ingress, waiting.operations())
                try:
                    decode_reply(request, await self._links.to(replica).call(encode(request)))
                except ReplicaGone:
                    return  # its jobs are lost, and their channel tells the streams
                except Exception as error:
                    logger.warning("A control call to %s failed: %s", replica, type(error).__name__)
                    self._waiting[replica] = self._waiting.get(replica, _Waiting()).after(waiting)
                    await backoff.pause()
                else:
                    backoff.reset()
        finally:
            self._waiting.pop(replica, None)
            del self._tasks[replica]
