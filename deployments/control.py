"""Pausing and resuming jobs: the operations of one tick go to a replica in one call, in order, one call at a time.

A pause that gets lost is harmless, a resume that gets lost is a stream that never ends. So what fails is tried again until the
last word on each job has arrived, or the replica is gone.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from deployments.calls import GeneratorCalls, detached
from deployments.channel import Control, ControlOperation, encode
from deployments.replica_directory import ReplicaGone

logger = logging.getLogger(__name__)

RETRY_S = 0.2
ATTEMPTS = 25

Action = Literal["pause", "resume"]


class ControlSender:
    """The operations that one ingress process has for the replicas of one deployment."""

    def __init__(self, calls: GeneratorCalls, ingress: str) -> None:
        self._calls = calls
        self._ingress = ingress
        self._waiting: dict[str, dict[int, Action]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def send(self, replica: str, key: int, action: Action) -> None:
        """Has `action` applied to a job. Returns at once; a later action on the same job replaces one that still waits."""
        self._waiting.setdefault(replica, {})[key] = action
        if replica not in self._tasks:
            self._tasks[replica] = detached(self._deliver(replica))

    def close(self) -> None:
        """Gives up what has not arrived. Idempotent."""
        self._waiting.clear()
        for task in self._tasks.values():
            task.cancel()

    async def _deliver(self, replica: str) -> None:
        attempts = ATTEMPTS
        try:
            while attempts and self._waiting.get(replica):
                actions = self._waiting.pop(replica)
                if await self._call(replica, actions):
                    attempts = ATTEMPTS
                    continue
                attempts -= 1
                self._waiting[replica] = actions | self._waiting.get(replica, {})
                await asyncio.sleep(RETRY_S)
        except ReplicaGone:
            pass  # its jobs are lost, and their sinks are told so elsewhere
        finally:
            self._waiting.pop(replica, None)
            del self._tasks[replica]

    async def _call(self, replica: str, actions: dict[int, Action]) -> bool:
        operations = [ControlOperation(key, action) for key, action in actions.items()]
        try:
            await self._calls.control(replica, encode(Control(self._ingress, operations)))
        except ReplicaGone:
            raise
        except Exception as error:
            logger.warning("A control call to %s failed: %s", replica, type(error).__name__)
            return False
        return True
