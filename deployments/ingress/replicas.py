"""Which replicas of a deployment this process may call, and which of them have fallen silent.

Serve makes the request router itself and tells only it which replicas there are, so the directories are found by name.
The router publishes (from whichever thread it runs in), the generator clients of the process subscribe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

Subscriber = Callable[[frozenset[str]], None]


class ReplicaGone(Exception):
    """The replica that a call is addressed to is not listed any more."""


class ReplicaDirectory:
    """The replicas of one deployment, by unique id. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replicas: frozenset[str] = frozenset()
        self._silent: frozenset[str] = frozenset()
        self._subscribers: list[Subscriber] = []

    @property
    def replicas(self) -> frozenset[str]:
        """The replicas that Serve lists: running, not draining."""
        return self._replicas

    @property
    def answering(self) -> frozenset[str]:
        """The replicas that Serve lists and that are not silent."""
        return self._replicas - self._silent

    def publish(self, replicas: Iterable[str]) -> None:
        """Replaces the list and tells the subscribers, in the calling thread."""
        with self._lock:
            self._replicas = frozenset(replicas)
            self._silent &= self._replicas
            subscribers = tuple(self._subscribers)
        for subscriber in subscribers:
            subscriber(self._replicas)

    def mark(self, replica: str, *, silent: bool) -> None:
        """Notes that `replica` does not answer, or that it does again. New work goes to the others."""
        with self._lock:
            self._silent = self._silent | {replica} if silent else self._silent - {replica}

    def subscribe(self, subscriber: Subscriber) -> None:
        with self._lock:
            self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        with self._lock:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)


_directories: dict[tuple[str, str], ReplicaDirectory] = {}
_directories_lock = threading.Lock()


def directory_of(application: str, deployment: str) -> ReplicaDirectory:
    """The one directory that this process has of a deployment."""
    with _directories_lock:
        return _directories.setdefault((application, deployment), ReplicaDirectory())
