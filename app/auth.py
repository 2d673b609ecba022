"""Who calls: the one place where a request's headers become the name of an owner.

Without a file of keys any key is good, and whoever sends the same one is the same caller; with one, only the keys in it are. The
owner of a stream is the same digest in both cases, so streams stay with their key when a file is introduced.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from app.errors import AuthenticationFailed
from app.key_file import KeyFileError, digest_of, read_keys
from app.ports import Clock

logger = logging.getLogger(__name__)

NOBODY = ""
CHECK_S = 1.0
"""How old what is known of the file of keys may be, in seconds."""
_OWNER_LENGTH = 32


class Callers(Protocol):
    """Tells the callers of the service apart."""

    def owner_of(self, headers: Mapping[str, str]) -> str:
        """The owner of what a request with these headers makes. Raises `AuthenticationFailed`."""
        ...


class AnyCaller:
    """No key is needed. A key that is sent tells its streams from those of others."""

    def owner_of(self, headers: Mapping[str, str]) -> str:
        return owner_of(headers)


class KnownCallers:
    """Only the keys whose digests are in the file at `path` are good. A change of the file counts within `CHECK_S`.

    Raises `KeyFileError` when the file is no good at the start. If it turns bad later, the keys from before stay good, so that a
    slip of the editor locks no caller out; the log says so.

    A key is found by its digest. How long that takes tells an attacker at most something of digests, from which no key follows.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._version = _version(path)
        self._digests = _digests(path)
        self._checked_s = clock.monotonic()

    def owner_of(self, headers: Mapping[str, str]) -> str:
        key = _key_in(headers)
        if not key:
            raise AuthenticationFailed("An API key is required: send Authorization: Bearer KEY.")
        self._refresh()
        digest = digest_of(key)
        if digest not in self._digests:
            raise AuthenticationFailed("The API key is not valid.")
        return digest[:_OWNER_LENGTH]

    def _refresh(self) -> None:
        """Reads the file again if it has changed; looks at most once in `CHECK_S`."""
        now_s = self._clock.monotonic()
        if now_s - self._checked_s < CHECK_S:
            return
        self._checked_s = now_s
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._digests = _digests(self._path)
        except KeyFileError as error:
            logger.error("the keys from before stay valid: %s", error)
        else:
            logger.info("%d keys read from %s", len(self._digests), self._path)


def callers(keys_file: str | None, clock: Clock) -> Callers:
    """Who may call, by the setting `auth.keys_file`. Raises `KeyFileError`."""
    return AnyCaller() if keys_file is None else KnownCallers(Path(keys_file), clock)


def owner_of(headers: Mapping[str, str]) -> str:
    """The owner of what this request makes: a digest of its API key, which tells nothing of the key; "" without one.

    `headers` must find names in any case. The key is in `Authorization: Bearer KEY`, `api-key` or `x-api-key`.
    """
    key = _key_in(headers)
    return digest_of(key)[:_OWNER_LENGTH] if key else NOBODY


def _key_in(headers: Mapping[str, str]) -> str:
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    key = credentials.strip() if scheme.lower() == "bearer" else ""
    return key or headers.get("api-key", "").strip() or headers.get("x-api-key", "").strip()


def _digests(path: Path) -> frozenset[str]:
    return frozenset(key.sha256 for key in read_keys(path))


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever the file does; None while it can't be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
