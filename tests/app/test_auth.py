"""Who owns what a request makes."""

from __future__ import annotations

import hashlib

import pytest
from starlette.datastructures import Headers

from app.auth import owner_of

MINE = hashlib.sha256(b"key").hexdigest()[:32]


@pytest.mark.parametrize(
    ("headers", "owner"),
    [
        ({}, ""),
        ({"Authorization": "Bearer key"}, MINE),
        ({"authorization": "bearer  key "}, MINE),
        ({"api-key": "key"}, MINE),
        ({"X-Api-Key": " key"}, MINE),
        ({"authorization": "Bearer key", "api-key": "other"}, MINE),
        ({"authorization": "Basic other", "x-api-key": "key"}, MINE),
        ({"authorization": "Bearer ", "x-api-key": "key"}, MINE),
        ({"authorization": "key"}, ""),
        ({"authorization": "Basic key"}, ""),
        ({"authorization": "Bearer"}, ""),
        ({"x-api-key": ""}, ""),
    ],
)
def test_the_owner_of_a_request(headers: dict[str, str], owner: str) -> None:
    assert owner_of(Headers(headers)) == owner


def test_keys_do_not_share_an_owner_and_are_not_in_it() -> None:
    keys = ["key", "Key", "key2", "ké"]
    owners = [owner_of(Headers({"x-api-key": key})) for key in keys]
    assert len(set(owners)) == len(keys)
    assert not any(key in owner for key, owner in zip(keys, owners, strict=True))
