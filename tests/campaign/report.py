"""What a campaign has found, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.campaign.disturber import Event
from tests.campaign.plan import Call
from tests.campaign.record import Record


@dataclass
class Report:
    """`violations` have the call and what is wrong. An empty list is a campaign that has passed."""

    seed: int
    duration_s: float
    streams: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    reconnected: int = 0
    violations: list[dict[str, Any]] = field(default_factory=list)
    disturbances: Counter[str] = field(default_factory=Counter)
    gaps_s: dict[str, list[float]] = field(default_factory=dict)

    def add(self, call: Call, record: Record, found: Sequence[str], events: Sequence[Event]) -> None:
        """Takes one stream. A gap is the longest time without a frame around a disturbance that met it."""
        self.streams[call.protocol] += 1
        self.cut += record.cut
        self.reconnected += record.connections > 1
        if found:
            self.violations.append({"call": str(call), "stream": record.stream, "found": list(found)})
        if call.delay_s or call.leaves_after is not None:
            return
        for event in events:
            gap_s = record.longest_gap_s(event.begin_s, event.end_s)
            if gap_s is not None:
                self.gaps_s.setdefault(event.kind, []).append(gap_s)

    def as_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "duration_s": self.duration_s,
            "streams": dict(self.streams),
            "cut": self.cut,
            "reconnected": self.reconnected,
            "disturbances": dict(self.disturbances),
            "gaps_s": {
                kind: {
                    "streams": len(gaps),
                    **{f"p{share}": round(quantile(gaps, share / 100), 3) for share in (50, 95, 100)},
                }
                for kind, gaps in self.gaps_s.items()
            },
            "violations": self.violations,
        }

    def table(self) -> str:
        """For people."""
        lines = [
            f"seed {self.seed}, {self.duration_s:.0f} s: {sum(self.streams.values())} streams, "
            f"{self.reconnected} over more than one connection, {self.cut} cut, {len(self.violations)} violations",
            "",
            "| streams | " + " | ".join(self.streams) + " |",
            "|---|" + "--:|" * len(self.streams),
            "| | " + " | ".join(map(str, self.streams.values())) + " |",
            "",
            "| disturbance | times | streams met | longest pause p50 | p95 | most |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for kind, times in sorted(self.disturbances.items()):
            gaps = self.gaps_s.get(kind, [])
            pauses = (
                " | ".join(f"{quantile(gaps, share):.2f} s" for share in (0.5, 0.95, 1))
                if gaps
                else "- | - | -"
            )
            lines.append(f"| {kind} | {times} | {len(gaps)} | {pauses} |")
        lines += [f"{each['call']}: {'; '.join(each['found'])}" for each in self.violations]
        return "\n".join(lines)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above. `values` is not empty."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
