"""The file of API keys: who has one, and the digest by which it is known. No key can be read from it.

    {"keys": [
      {"name": "ann", "sha256": "0f3c…", "created": "2026-11-24T10:30:00Z"}
    ]}

The digest is a plain SHA-256 without a salt. Salts and slow hashes protect passwords, which can be guessed; a key has 256 random
bits, which can't, and a plain digest can be looked up without trying every entry.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

PREFIX = "sk-"
MAX_FILE_BYTES = 8 * 1024 * 1024
_KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class KeyFileError(ValueError):
    """The file of keys can't be used. The message says which file, where in it, and why."""


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key. `created` is a time in ISO 8601, for people; nothing depends on it."""

    name: str
    sha256: str
    created: str | None = None


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[KeyEntry]


def digest_of(key: str) -> str:
    """The digest that the file has of `key`, in hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> list[KeyEntry]:
    """The entries of the file. Raises `KeyFileError`; what it says holds no digest."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path} can't be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        entries = msgspec.json.decode(raw, type=KeyList).keys
    except msgspec.DecodeError as error:
        raise KeyFileError(f"{path} is not a file of keys: {error}") from None
    names: set[str] = set()
    for index, entry in enumerate(entries):
        place = f"{path}: keys[{index}]"
        if _NAME.fullmatch(entry.name) is None:
            raise KeyFileError(f"{place}.name is not a name")
        if entry.name in names:
            raise KeyFileError(f"{place}.name: there are two keys named {entry.name}")
        if _SHA256.fullmatch(entry.sha256) is None:
            raise KeyFileError(f"{place}.sha256 is not a SHA-256 digest in lower-case hexadecimal")
        names.add(entry.name)
    return entries


def create_key(path: Path, name: str) -> str:
    """Makes a key, adds its digest to the file, and returns the key, which is nowhere else.

    The file is made if there is none, replaced as a whole if there is, and readable for its owner only. Programs that do this at
    the same time wait for each other. Raises `KeyFileError`, also when `name` has a key; then the file stays as it was.
    """
    if _NAME.fullmatch(name) is None:
        raise KeyFileError(
            "a name has 1 to 64 letters, digits and . _ @ / -, and begins with a letter or a digit"
        )
    key = PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    try:
        with _alone_in(path.parent):
            entries = read_keys(path) if path.exists() else []
            if any(entry.name == name for entry in entries):
                raise KeyFileError(f"{path} has a key named {name} already")
            created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            _replace(path, [*entries, KeyEntry(name, digest_of(key), created)])
    except OSError as error:
        raise KeyFileError(f"{path} can't be written: {error.strerror}") from None
    return key


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Holds the lock of the directory: the file itself is replaced, so a lock on it would be lost."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, entries: list[KeyEntry]) -> None:
    """Writes the whole file beside the old one, then puts it in its place, so that a reader sees one or the other."""
    text = msgspec.json.format(msgspec.json.encode(KeyList(entries)), indent=2)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # for its owner only
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
