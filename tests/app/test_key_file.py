"""The file of keys: what is written, what is refused, and that nobody else can read it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.key_file import KeyFileError, create_key, read_keys

DIGEST = hashlib.sha256(b"key").hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_file_has_the_digest_and_not_the_key(path: Path) -> None:
    key = create_key(path, "ann")
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", key)
    (entry,) = json.loads(path.read_text())["keys"]
    assert (entry["name"], entry["sha256"]) == ("ann", hashlib.sha256(key.encode()).hexdigest())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["created"])
    assert key.removeprefix("sk-") not in path.read_text()


def test_keys_are_added_and_the_file_is_for_its_owner_only(path: Path) -> None:
    path.write_text('{"keys": []}')
    path.chmod(0o644)
    keys = {create_key(path, name) for name in ("ann", "bob@example.org", "team/c-3.1_x")}
    assert len(keys) == 3
    assert [entry.name for entry in read_keys(path)] == ["ann", "bob@example.org", "team/c-3.1_x"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["keys.json"]


def test_those_who_write_at_the_same_time_lose_nothing(path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: create_key(path, f"key{number}"), range(24)))
    assert sorted(entry.name for entry in read_keys(path)) == sorted(f"key{number}" for number in range(24))


@pytest.mark.parametrize("name", ["", "-ann", "a b", "a\n", "é", "a" * 65])
def test_what_is_no_name_is_refused(path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="a name has 1 to 64"):
        create_key(path, name)
    assert not path.exists()


def test_a_name_has_one_key(path: Path) -> None:
    create_key(path, "ann")
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match=r"keys\.json has a key named ann already"):
        create_key(path, "ann")
    assert path.read_bytes() == before and os.listdir(path.parent) == ["keys.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a file of keys: Input data was truncated"),
        ("{", "is not a file of keys"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `keys`"),
        ('{"keys": [], "secret": 1}', "unknown field `secret`"),
        ('{"keys": [{"name": "ann"}]}', r"missing required field `sha256` - at `\$\.keys\[0\]`"),
        (
            '{"keys": [{"name": "ann", "sha256": 5}]}',
            r"Expected `str`, got `int` - at `\$\.keys\[0\]\.sha256`",
        ),
        ('{"keys": [{"name": "ann", "sha256": "abc"}]}', r"keys\[0\]\.sha256 is not a SHA-256 digest"),
        (json.dumps({"keys": [{"name": "a b", "sha256": DIGEST}]}), r"keys\[0\]\.name is not a name"),
        (
            json.dumps({"keys": [{"name": "ann", "sha256": DIGEST}, {"name": "ann", "sha256": DIGEST}]}),
            r"keys\[1\]\.name: there are two keys named ann",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(KeyFileError, match=f"keys.json.*{said}"):
        read_keys(path)
    with pytest.raises(KeyFileError):
        create_key(path, "bob")
    assert path.read_text() == text


def test_a_file_without_a_bound_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.key_file.MAX_FILE_BYTES", 5)
    path.write_text('{"keys": []}')
    with pytest.raises(KeyFileError, match="larger than 5 bytes"):
        read_keys(path)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="can't be written: No such file"):
        create_key(tmp_path / "nowhere" / "keys.json", "ann")
