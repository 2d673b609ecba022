"""Which streams have lost their generator, as the ingress processes log it."""

from __future__ import annotations

import re
from pathlib import Path

_LOST = re.compile(r"the stream (st_\w+) has lost the generator replica")


class Losses:
    """`logs` is the folder in which Serve keeps the logs of its replicas. They must not be buffered."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._read: dict[str, int] = {}

    def fresh(self) -> frozenset[str]:
        """The streams that have lost one since the last call."""
        found: set[str] = set()
        for path in self._logs.glob("replica_*_Ingress_*.log"):
            with path.open("rb") as log:
                log.seek(self._read.get(path.name, 0))
                said = log.read()
            whole = said.rfind(b"\n") + 1
            self._read[path.name] = self._read.get(path.name, 0) + whole
            found.update(_LOST.findall(said[:whole].decode(errors="replace")))
        return frozenset(found)
