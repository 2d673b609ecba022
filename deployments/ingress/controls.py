"""Pausing, resuming and steering jobs: the operations of one tick go to a replica in one call, one call at a time.

A pause that gets lost is harmless, a resume that gets lost is a stream that never ends, and text that gets lost was promised. So
what fails is tried again until the last word on each job has arrived, or the replica is gone. A call that failed may have been
obeyed: pauses and resumes can be repeated, and a replica applies a steering once, by its id.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Literal

from app.schema.tokens import Steering
from deployments.ingress.calls import GeneratorCalls, detached
from deployments.ingress.replicas import ReplicaGone
from deployments.messages.generation import Control, ControlOperation, encode

logger = logging.getLogger(__name__)

RETRY_S = 0.2
ATTEMPTS = 25

Action = Literal["pause", "resume"]


@dataclass
class _Waiting:
    """What one replica has not been told yet: the last word on each job, and all that is put into jobs, in order."""

    actions: dict[int, Action] = field(default_factory=dict)
    steerings: list[ControlOperation] = field(default_factory=list)

    def operations(self) -> list[ControlOperation]:
        return [*self.steerings, *(ControlOperation(key, action) for key, action in self.actions.items())]

    def after(self, earlier: _Waiting) -> _Waiting:
        """Both, when `earlier` has to be told again."""
        return _Waiting(earlier.actions | self.actions, earlier.steerings + self.steerings)


class ControlSender:
    """The operations that one ingress process has for the replicas of one deployment."""

    def __init__(self, calls: GeneratorCalls, ingress: str) -> None:
        self._calls = calls
        self._ingress = ingress
        self._waiting: dict[str, _Waiting] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def send(self, replica: str, key: int, action: Action) -> None:
        """Has `action` applied to a job. Returns at once; a later action on the same job replaces one that still waits."""
        self._for(replica).actions[key] = action

    def steer(self, replica: str, key: int, steering: Steering) -> None:
        """Has tokens put into a job, behind those of earlier calls. Returns at once."""
        self._for(replica).steerings.append(ControlOperation(key, "steer", steering))

    def close(self) -> None:
        """Gives up what has not arrived. Idempotent."""
        self._waiting.clear()
        for task in self._tasks.values():
            task.cancel()

    def _for(self, replica: str) -> _Waiting:
        """What waits for `replica`, which will be told soon."""
        if replica not in self._tasks:
            self._tasks[replica] = detached(self._deliver(replica))
        return self._waiting.setdefault(replica, _Waiting())

    async def _deliver(self, replica: str) -> None:
        attempts = ATTEMPTS
        try:
            while attempts and replica in self._waiting:
                told = self._waiting.pop(replica)
                if await self._call(replica, told):
                    attempts = ATTEMPTS
                    continue
                attempts -= 1
                self._waiting[replica] = self._waiting.get(replica, _Waiting()).after(told)
                await asyncio.sleep(RETRY_S)
        except ReplicaGone:
            pass  # its jobs are lost, and their sinks are told so elsewhere
        finally:
            self._waiting.pop(replica, None)
            del self._tasks[replica]

    async def _call(self, replica: str, told: _Waiting) -> bool:
        try:
            await self._calls.control(replica, encode(Control(self._ingress, told.operations())))
        except ReplicaGone:
            raise
        except Exception as error:
            logger.warning("A control call to %s failed: %s", replica, type(error).__name__)
            return False
        return True
