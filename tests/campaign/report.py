"""What a campaign has found, as JSON and as a table."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.campaign.census import Census
from tests.campaign.disturber import MOMENT_S, Event
from tests.campaign.plan import KINDS, OF_INGRESS, Call, Edit, kinds_of
from tests.campaign.record import Record


@dataclass(frozen=True)
class Met:
    """A stream that ran when something was done. `hit`: it was at the process to which that was done."""

    event: Event
    kinds: frozenset[str]
    hit: bool
    identical: bool
    pause_s: float


@dataclass
class Report:
    """`violations` have the call and what is wrong. An empty list is a campaign that has passed.

    `events` are what was done, and `quiet` moments at which nothing was, between them. Streams whose client waits or leaves by
    itself, or changes them, are not asked for pauses. `before` and `after`: what the server held when no client was there;
    `left` says in words what is more at the end, and what it did not recover from. `lost` counts the streams of each kind that
    have lost their generator, whatever their client did.
    """

    seed: int
    duration_s: float
    events: Sequence[Event]
    quiet: Sequence[Event] = ()
    before: Census | None = None
    after: Census | None = None
    left: list[str] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    lost_identical: Counter[str] = field(default_factory=Counter)
    edits: Counter[str] = field(default_factory=Counter)
    streams: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    reconnected: int = 0
    violations: list[dict[str, Any]] = field(default_factory=list)
    met: list[Met] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, call: Call, fields: dict[str, Any], record: Record, found: Sequence[str]) -> None:
        """Takes one stream of the request `fields`. A pause is the longest time without a frame around a moment."""
        self.streams[call.protocol] += 1
        self.cut += record.cut
        self.reconnected += len(record.connected_s) > 1
        if found:
            self.violations.append({"call": str(call), "stream": record.stream, "found": list(found)})
        if call.edit is not None and record.frames:
            self.edits[f"{call.edit.kind}, {_effect(call.edit, record)}"] += 1
        kinds = kinds_of(fields)
        if any(record.stream in event.lost for event in self.events):
            self.lost.update(kinds)
            self.lost_identical.update(() if found else kinds)
        if not call.is_prompt:
            return
        for event in (*self.events, *self.quiet):
            pause_s = record.longest_gap_s(event.begin_s, event.end_s)
            if pause_s is not None:
                hit = record.stream in event.lost
                if event.kind in OF_INGRESS:
                    if call.protocol == "library":
                        continue  # it returns without saying so
                    hit = record.returned_within(event.begin_s, event.recovered_s)
                self.met.append(Met(event, kinds, hit, not found, pause_s))

    @property
    def passed(self) -> bool:
        return not self.violations and not self.left

    def as_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "duration_s": self.duration_s,
            "load": self.load,
            "streams": dict(self.streams),
            "cut": self.cut,
            "reconnected": self.reconnected,
            "disturbances": dict(Counter(event.kind for event in self.events)),
            "lost": dict(self.lost),
            "lost_identical": dict(self.lost_identical),
            "edits": dict(self.edits),
            "before": self.before and self.before.as_dict(),
            "after": self.after and self.after.as_dict(),
            "left": self.left,
            "pauses": list(self._rows()),
            "violations": self.violations,
        }

    def table(self) -> str:
        """For people."""
        lines = [
            f"seed {self.seed}, {self.duration_s:.0f} s: {sum(self.streams.values())} streams, "
            f"{self.reconnected} over more than one connection, {self.cut} cut, {len(self.violations)} violations; "
            f"load {self.load:.1f} on {os.cpu_count()} cores",
            "",
            *_counts(self.streams),
            "",
            *_counts(Counter(event.kind for event in self.events)),
            "",
            *_counts(self.edits),
            "",
            f"| have lost their generator | {' | '.join(KINDS)} |",
            "|---|" + "--:|" * len(KINDS),
            f"| number | {' | '.join(str(self.lost[kind]) for kind in KINDS)} |",
            f"| identical | {' | '.join(str(self.lost_identical[kind]) for kind in KINDS)} |",
            "",
            "| what was done | streams | number | identical | pause p50 | p95 | most | added p50 | p95 | most |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for row in self._rows():
            pauses = (f"{row[name][share]:.2f} s" for name in ("pause_s", "added_s") for share in row[name])
            cells = (row["done"], row["streams"], row["number"], row["identical"], *pauses)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines += ["", f"before: {self.before}", f"after: {self.after}", *self.left]
        lines += [f"{each['call']} {each['stream']}: {'; '.join(each['found'])}" for each in self.violations]
        return "\n".join(lines)

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Of each disturbance: the streams that were not at the process, those that were, and these by kind."""
        by_kind: dict[str, list[Met]] = defaultdict(list)
        for met in self.met:
            by_kind[met.event.kind].append(met)
        quiet_s = median([met.pause_s for met in by_kind["nothing"]] or [0.0])
        for done, all_met in sorted(by_kind.items()):
            groups = {"others": [met for met in all_met if not met.hit]}
            hit = [met for met in all_met if met.hit]
            groups |= {"hit": hit} | {kind: [met for met in hit if kind in met.kinds] for kind in KINDS}
            usual_s = {
                event: median([met.pause_s for met in groups["others"] if met.event is event] or [quiet_s])
                for event in {id(met.event): met.event for met in all_met}.values()
            }
            for streams, members in groups.items():
                if members:
                    pauses = [met.pause_s for met in members]
                    added = [max(0.0, met.pause_s - usual_s[met.event]) for met in members]
                    yield {
                        "done": done,
                        "streams": streams,
                        "number": len(members),
                        "identical": sum(met.identical for met in members),
                        "pause_s": _shares(pauses),
                        "added_s": _shares(added),
                    }


def quiet_moments(events: Sequence[Event], begin_s: float, end_s: float) -> list[Event]:
    """Moments, one a second, in which nothing was done and the server had recovered from what was done before."""
    moments = []
    for number in range(int(end_s - begin_s)):
        moment_s = begin_s + number
        if not any(
            event.begin_s - MOMENT_S <= moment_s + MOMENT_S and moment_s <= event.recovered_s
            for event in events
        ):
            moments.append(Event("nothing", moment_s, moment_s + MOMENT_S, moment_s + MOMENT_S))
    return moments


def _effect(edit: Edit, record: Record) -> str:
    if edit.kind == "steer":
        return "made" if record.steered else "too late"
    ends = record.frames[-1].get("choices")
    return "made" if ends and ends[0]["finish_reason"] == "stop" else "too late"


def _counts(counter: Counter[str]) -> list[str]:
    """A table with one row; none for an empty counter."""
    if not counter:
        return []
    names, numbers = counter.keys(), map(str, counter.values())
    return [f"| {' | '.join(names)} |", "|" + "--:|" * len(names), f"| {' | '.join(numbers)} |"]


def _shares(values: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": round(quantile(values, share / 100), 3) for share in (50, 95, 100)}


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are not above. `values` is not empty."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
