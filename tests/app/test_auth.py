"""Who owns what a request makes."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from app.auth import CHECK_S, NOBODY, callers, owner_of
from app.errors import AuthenticationFailed
from app.key_file import KeyFileError, create_key, read_keys
from tests.fakes.clock import FakeClock

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


def bearer(key: str) -> Headers:
    return Headers({"authorization": f"Bearer {key}"})


class World:
    """Callers who are known by a file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "keys.json"
        self.ann = create_key(self.path, "ann")
        self.clock = FakeClock()
        self.callers = callers(str(self.path), self.clock)

    def refuses(self, headers: Headers) -> bool:
        try:
            self.callers.owner_of(headers)
        except AuthenticationFailed:
            return True
        return False

    def later(self) -> None:
        asyncio.run(self.clock.advance(CHECK_S))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_without_a_file_any_key_is_good() -> None:
    assert callers(None, FakeClock()).owner_of(bearer("key")) == MINE
    assert callers(None, FakeClock()).owner_of(Headers({})) == NOBODY


def test_with_a_file_only_its_keys_are_good_and_own_what_they_owned_without_it(world: World) -> None:
    assert world.callers.owner_of(bearer(world.ann)) == owner_of(bearer(world.ann))
    assert world.callers.owner_of(Headers({"x-api-key": world.ann})) == owner_of(bearer(world.ann))


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer"}, {"x-api-key": "sk-guess"}, {"api-key": "é"}]
)
def test_whoever_has_no_valid_key_is_refused_without_an_echo_of_it(
    world: World, headers: dict[str, str]
) -> None:
    with pytest.raises(AuthenticationFailed) as raised:
        world.callers.owner_of(Headers(headers))
    assert "guess" not in raised.value.message


def test_the_digest_in_the_file_is_no_key(world: World) -> None:
    assert world.refuses(bearer(read_keys(world.path)[0].sha256))


def test_a_change_of_the_file_counts_soon(world: World) -> None:
    bob = create_key(world.path, "bob")
    assert world.refuses(bearer(bob))
    world.later()
    assert not world.refuses(bearer(bob)) and not world.refuses(bearer(world.ann))
    world.path.write_text('{"keys": []}')
    world.later()
    assert world.refuses(bearer(bob)) and world.refuses(bearer(world.ann))


def test_a_file_that_turns_bad_locks_nobody_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    good = world.path.read_text()
    world.path.write_text("{")
    world.later()
    assert not world.refuses(bearer(world.ann))
    assert "the keys from before stay valid" in caplog.text and world.ann not in caplog.text
    world.path.unlink()
    world.later()
    assert not world.refuses(bearer(world.ann))
    world.path.write_text(good.replace("ann", "bob"))
    world.later()
    assert not world.refuses(bearer(world.ann))
    assert len(caplog.records) == 2


def test_the_file_is_looked_at_no_more_often_than_needed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []
    monkeypatch.setattr("app.auth._version", lambda path: looks.append(path))
    for _ in range(100):
        world.refuses(bearer(world.ann))
    assert looks == []
    world.later()
    for _ in range(100):
        world.refuses(bearer(world.ann))
    assert looks == [world.path]


def test_a_file_that_is_bad_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"keys\.json can't be read: No such file"):
        callers(str(tmp_path / "keys.json"), FakeClock())
