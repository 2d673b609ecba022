"""Permits: how many there are, and that they come back."""

from __future__ import annotations

import pytest

from app.admission import HeldBodies, Quota
from app.errors import Overloaded, TooManyStreams


def test_an_owner_has_a_quota_of_their_own() -> None:
    quota = Quota(2)
    with quota.permit("ann"), quota.permit("ann"):
        with (
            pytest.raises(TooManyStreams, match="already has 2 running streams, the maximum") as raised,
            quota.permit("ann"),
        ):
            pass
        assert raised.value.retry_after_s == 1
        with quota.permit("bob"):
            pass
    with quota.permit("ann"), quota.permit("ann"):
        pass


def test_what_was_accepted_before_is_counted_and_never_refused() -> None:
    quota = Quota(1)
    with quota.permit("ann"), quota.permit("ann", accepted=True):
        pass
    with quota.permit("ann", accepted=True), pytest.raises(TooManyStreams), quota.permit("ann"):
        pass
    with quota.permit("ann"):
        pass


def test_a_permit_comes_back_when_what_it_was_for_breaks() -> None:
    quota = Quota(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), quota.permit("ann"):
            raise ZeroDivisionError


def test_bodies_count_as_they_come_until_they_are_done_with() -> None:
    bodies = HeldBodies(10)
    with bodies.permit() as count:
        count(6)
        with bodies.permit() as other:
            other(4)
            with pytest.raises(Overloaded, match="holds 10 bytes of requests") as raised:
                other(1)
            assert raised.value.retry_after_s == 1
            assert bodies.held_bytes == 10
        assert bodies.held_bytes == 6
        count(4)
    assert bodies.held_bytes == 0
