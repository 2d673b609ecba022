"""The comparison of links with grpc.aio measures every part on both transports. How long it takes is not tested."""

from __future__ import annotations

from benchmarks.links import PARTS, TRANSPORTS, compare, rows


def test_a_short_run_has_a_result_for_each_part_transport_and_round() -> None:
    results = compare(rounds=1, scale=0.01)
    assert [[len(each) for each in part] for part in results] == [[1] * len(TRANSPORTS)] * len(PARTS)
    for part, transports in zip(PARTS, results, strict=True):
        for (measured,) in transports:
            assert 0 < measured.median_us <= measured.p99_us
            assert (measured.processor_us is not None) == part.has_cost
    head, *table = rows(results)
    assert [row[0] for row in table] == [part.title for part in PARTS]
    assert {len(row) for row in table} == {len(head)}
