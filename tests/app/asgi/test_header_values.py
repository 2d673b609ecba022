"""Header values of any bytes: taken, or refused in the shape of every error, and never a failure of the server."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.settings import AuthSettings, IngressSettings
from tests.app.asgi.test_application import World, check_error, live
from tests.fakes.clock import settle

NAMES = [
    "accept",
    "access-control-request-headers",
    "access-control-request-method",
    "api-key",
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "last-event-id",
    "origin",
    "x-api-key",
    "x-request-id",
]
BODY = json.dumps({"prompt": "hi", "max_tokens": 2}).encode()
REQUESTS = [
    ("POST", "/v1/streams"),
    ("POST", "/v1/completions"),
    ("POST", "/tokenize"),
    ("GET", "/v1/streams/st_1/events"),
    ("GET", "/v1/models"),
    ("OPTIONS", "/v1/streams"),
]
# What HTTP allows in a value; the server's parser refuses the rest.
BYTES = st.binary(max_size=40).map(
    lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)
)
VALUES = st.one_of(
    BYTES, BYTES.map(lambda value: b"Bearer " + value), BYTES.map(lambda value: b"st_1:" + value)
)


@pytest.mark.parametrize("with_keys", [False, True])
@settings(max_examples=12, deadline=None)
@given(
    data=st.lists(
        st.tuples(st.sampled_from(NAMES), VALUES, st.sampled_from(REQUESTS)), min_size=40, max_size=60
    )
)
def test_any_bytes_are_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, with_keys: bool, data: list[tuple[str, bytes, tuple[str, str]]]
) -> None:
    async def test(world: World) -> None:
        for name, value, (method, path) in data:
            given = {b"content-type": b"application/json", name.encode(): value}
            answer = await world.client.request(method, path, content=BODY, headers=list(given.items()))
            assert answer.status_code < 500, (name, value, answer.text)
            if answer.status_code >= 400:
                error = answer.json()["error"]
                assert error["message"] and error["code"]

    auth = AuthSettings(keys_file=str(keys_file(tmp_path_factory.mktemp("keys"))) if with_keys else None)
    live(test, auth=auth, ingress=IngressSettings(allowed_origins=["https://app.example"]))


def keys_file(folder: Path) -> Path:
    path = folder / "keys.json"
    entry = {"name": "ann", "sha256": hashlib.sha256(b"secret").hexdigest()}
    path.write_text(json.dumps({"keys": [entry]}), "utf-8")
    return path


@pytest.mark.parametrize("value", [b"caf\xe9", "日本".encode(), b"\xff\xfe", b"a\x80"])
def test_what_is_said_of_bytes_outside_of_ascii(value: bytes) -> None:
    async def test(world: World) -> None:
        async def ask(name: str, path: str = "/v1/streams", method: str = "POST") -> httpx.Response:
            headers = [(b"content-type", b"application/json"), (name.encode(), value)]
            return await world.client.request(method, path, content=BODY, headers=headers)

        check_error(await ask("idempotency-key"), 400, "invalid_request", "Idempotency-Key")
        check_error(await ask("last-event-id"), 400, "invalid_request", "Last-Event-ID")
        path = "/v1/streams/st_1/events"
        check_error(await ask("last-event-id", path, "GET"), 400, "invalid_request", "Last-Event-ID")
        for name in ("origin", "authorization", "x-api-key", "api-key"):
            answer = await ask(name)
            assert answer.status_code == 200, name
        await settle()

    live(test)


def test_keys_outside_of_ascii_are_keys() -> None:
    async def test(world: World) -> None:
        async def ask(method: str, path: str, key: bytes) -> int:
            headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer " + key)]
            content = json.dumps({"prompt": "hi", "detach": True}).encode()
            answer = await world.client.request(method, path, content=content, headers=headers)
            found.append(answer.headers.get("x-stream-id", ""))
            return answer.status_code

        found: list[str] = []
        assert await ask("POST", "/v1/streams", b"caf\xe9") == 202
        path = f"/v1/streams/{found[0]}"
        assert await ask("GET", path, b"caf\xe9") == 200
        assert await ask("GET", path, b"caf\xe8") == await ask("GET", path, b"cafe") == 404

    live(test)
