from __future__ import annotations

from typing import Any

import pytest

from tests.campaign.disturber import Event
from tests.campaign.plan import Call, Disturbance
from tests.campaign.record import Record
from tests.campaign.report import Report, quantile, quiet_moments

SEEDED: dict[str, Any] = {"seed": 1, "temperature": 1.0, "n": 3}


def record(stream: str, *came_s: float) -> Record:
    made = Record(connected_s=[0.0])
    made.take({"type": "start", "cursor": "0", "stream": stream})
    made.frames += [{"type": "delta"}] * (len(came_s) - 1)
    made.came_s = list(came_s)
    return made


def event(kind: Disturbance, begin_s: float, *lost: str) -> Event:
    return Event(kind, begin_s, begin_s + 1, begin_s + 10, frozenset(lost))


def rows(report: Report) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["done"], row["streams"]): row for row in report.as_dict()["pauses"]}


def test_who_lost_its_generator_is_compared_with_who_did_not() -> None:
    report = Report(1, 60, [event("kill generator", 20, "a", "b"), event("kill generator", 40)])
    report.add(Call(0, "sse"), SEEDED, record("a", 19.9, 20.8, 21.0), [])
    report.add(Call(0, "sse"), SEEDED, record("b", 19.9, 20.2, 20.6), ["wrong"])
    report.add(Call(0, "sse"), SEEDED, record("c", 19.9, 20.2, 20.3), [])
    report.add(Call(0, "sse"), SEEDED, record("d", 1.0, 2.0), [])
    found = rows(report)
    for streams in ("hit", "seeded", "n=3"):
        row = found["kill generator", streams]
        assert (row["number"], row["identical"]) == (2, 1)
        assert row["pause_s"]["p100"] == pytest.approx(0.9)
        assert row["added_s"]["p100"] == pytest.approx(0.6)
    assert found["kill generator", "others"]["number"] == 1
    assert ("kill generator", "greedy") not in found
    assert "wrong" in report.table() and "0.60 s" in report.table()


def test_who_returned_was_at_the_ingress_that_was_killed() -> None:
    report = Report(1, 60, [event("kill ingress", 20)])
    back = record("a", 19.0, 23.0)
    back.connected_s.append(22.0)
    report.add(Call(0, "sse"), SEEDED, back, [])
    report.add(Call(0, "sse"), SEEDED, record("b", 19.0, 21.0), [])
    assert rows(report)["kill ingress", "hit"]["pause_s"]["p50"] == 4.0
    assert rows(report)["kill ingress", "others"]["pause_s"]["p50"] == 2.0
    report.add(Call(0, "library"), SEEDED, back, [])  # which returns without saying so
    assert rows(report)["kill ingress", "hit"]["number"] == 1


def test_clients_that_wait_by_themselves_are_not_asked_for_pauses() -> None:
    report = Report(1, 60, [event("kill generator", 20, "a")])
    report.add(Call(0, "sse", leaves_after=(3,)), SEEDED, record("a", 19.0, 21.0), [])
    report.add(Call(0, "sse", delay_s=0.02), SEEDED, record("a", 19.0, 21.0), [])
    assert report.as_dict()["streams"] == {"sse": 2} and not rows(report)
    assert report.as_dict()["lost"] == {"seeded": 2, "n=3": 2} == report.as_dict()["lost_identical"]
    report.add(Call(0, "sse", delay_s=0.02), SEEDED, record("a", 19.0, 21.0), ["wrong"])
    assert (report.lost["seeded"], report.lost_identical["seeded"]) == (3, 2)


def test_quiet_moments_lie_between_the_disturbances() -> None:
    moments = quiet_moments([event("kill generator", 5)], 0, 20)
    assert [moment.begin_s for moment in moments] == [0, 1, 2, 16, 17, 18, 19]
    report = Report(1, 20, [], moments)
    report.add(Call(0, "sse"), SEEDED, record("a", 0.0, 0.5, 2.5), [])
    assert rows(report)["nothing", "others"]["pause_s"]["p100"] == 2.0


def test_a_quantile_is_one_of_the_values() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0, 0.5, 0.95, 1)] == [1.0, 3.0, 5.0, 5.0]
