from __future__ import annotations

from typing import Any

import pytest

from tests.campaign.census import Census

BEFORE = Census(
    held={"running": 0, "jobs": 0},
    memory_mib={"generator": 600, "ingress": 150},
    files={"generator": 60, "ingress": 90},
    connections=0,
    proxies=1,
)
LEFT: dict[str, dict[str, Any]] = {
    "1 jobs": {"held": {"running": 0, "jobs": 1}},
    "generator has 900 MiB": {"memory_mib": {"generator": 900, "ingress": 150}},
    "ingress has 400 files": {"files": {"generator": 60, "ingress": 400}},
    "2 connections": {"connections": 2},
    "2 processes of HAProxy": {"proxies": 2},
}


def test_a_server_that_is_as_before_has_no_differences() -> None:
    assert BEFORE.differences(BEFORE) == []


@pytest.mark.parametrize("words", LEFT)
def test_what_is_left_is_found(words: str) -> None:
    after = Census(**{**BEFORE.as_dict(), **LEFT[words]})
    [found] = after.differences(BEFORE)
    assert words in found


def test_pools_may_fill() -> None:
    after = Census(**{**BEFORE.as_dict(), "memory_mib": {"generator": 700, "ingress": 200}})
    assert after.differences(BEFORE) == []
