"""What a stream store without a memory is still to be told: the streams of the processes that were there before it."""

from __future__ import annotations

from collections.abc import Iterable


class Learning:
    """`processes` ran when the store began. The name of each producer begins with that of its process."""

    def __init__(self, processes: Iterable[str] = ()) -> None:
        self._silent = set(processes)
        self._asked: set[str] = set()
        self._told: set[str] = set()

    @property
    def is_over(self) -> bool:
        """Whether the store knows every stream that runs."""
        return not self._silent

    def asks(self, producer: str) -> bool:
        """Called when a producer asks for orders: whether it is to tell of its streams before it asks again.

        It is asked until it has, for it may have told another store.
        """
        if (process := self._silent_process(producer)) is None:
            return False
        if process in self._told:
            self._silent.discard(process)
            return False
        self._asked.add(process)
        return True

    def hears(self, producer: str) -> None:
        """Called when a producer appends."""
        process = self._silent_process(producer)
        if process is not None and process in self._asked:
            self._told.add(process)

    def keep(self, processes: Iterable[str]) -> None:
        """All others have died, and tell nothing any more."""
        self._silent.intersection_update(processes)

    def _silent_process(self, producer: str) -> str | None:
        return next((process for process in self._silent if producer.startswith(process)), None)
