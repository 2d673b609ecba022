"""A workload's bounds, and its division among client processes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve.workload import Endpoint, Workload


@pytest.mark.parametrize(
    "changes",
    [
        {"clients": 0},
        {"clients": 5000},
        {"requests": 0},
        {"tokens": 0},
        {"requests": 1_000_000, "tokens": 1_000},
        {"duration_s": 0.0},
        {"duration_s": float("inf")},
        {"timeout_s": float("nan")},
        {"ramp_s": -1.0},
        {"ramp_s": 301.0},
        {"rate_per_s": 0.0},
        {"rate_per_s": float("inf")},
        {"readers_stalled": -1},
        {"prompt_tokens": 0},
    ],
)
def test_nothing_is_unbounded(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Workload(**({"clients": 1, "requests": 1, "tokens": 1} | changes))


@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "example.org", "::"])
def test_loopback_only(host: str) -> None:
    with pytest.raises(ValueError):
        Endpoint(port=80, path="/", dialect="plain", host=host)


def test_loopback_addresses_and_ports() -> None:
    assert Endpoint(port=80, path="/", dialect="plain", host="::1").host == "::1"
    with pytest.raises(ValueError, match="0 is not a port"):
        Endpoint(port=0, path="/", dialect="plain")


@given(
    parts=st.integers(1, 8),
    clients=st.integers(8, 200),
    requests=st.integers(8, 500),
    stalled=st.integers(0, 50),
)
def test_shares_add_up(parts: int, clients: int, requests: int, stalled: int) -> None:
    whole = Workload(clients=clients, requests=requests, tokens=5, rate_per_s=8.0, readers_stalled=stalled)
    shares = [whole.share(index, parts) for index in range(parts)]
    assert sum(share.clients for share in shares) == clients
    assert sum(share.requests for share in shares) == requests
    assert sum(share.readers_stalled for share in shares) == stalled
    assert sum(share.rate_per_s or 0 for share in shares) == pytest.approx(8.0)
    assert len({share.seed for share in shares}) == parts
