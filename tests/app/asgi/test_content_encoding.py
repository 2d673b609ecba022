"""Packed bodies: what is unpacked, what is refused, and that a bomb does not go off."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from app.asgi.content_encoding import ACCEPTED, PIECE_BYTES, unpacker_of
from app.errors import InvalidRequest, UnsupportedEncoding
from tests.app.asgi.test_application import MAX_BODY_BYTES, World, check_error, live

MIB = 1024 * 1024


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def far_back(body: bytes) -> bytes:
    """A frame of zstd that asks for 16 MiB of memory."""
    names = zstd.CompressionParameter
    options: dict[int, int] = {names.window_log: 24, names.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    return packer.compress(body) + packer.flush()


Pack = Callable[[bytes], bytes]
PACKS: list[tuple[str, Pack]] = [
    ("gzip", gzip.compress),
    ("X-GZIP", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("zstd", zstd.compress),
    (" Zstd ", zstd.compress),
    ("identity", bytes),
    ("", bytes),
]


def unpacked(encoding: str, parts: list[bytes]) -> bytes:
    unpacker = unpacker_of(encoding)
    pieces = [piece for part in parts for piece in unpacker.unpack(part)]
    assert unpacker.complete
    assert encoding.strip() in ("", "identity") or all(len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(("encoding", "pack"), PACKS)
@given(
    body=st.one_of(
        st.binary(max_size=500), st.sampled_from([PIECE_BYTES, 2 * PIECE_BYTES, PIECE_BYTES + 1]).map(bytes)
    ),
    cuts=st.lists(st.integers(0, 600), max_size=4),
)
def test_a_body_is_unpacked_however_it_is_cut(
    encoding: str, pack: Pack, body: bytes, cuts: list[int]
) -> None:
    packed = pack(body)
    ends = [*sorted(cuts), len(packed)]
    parts = [packed[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert unpacked(encoding, [*parts, b""]) == body


@pytest.mark.parametrize(("encoding", "pack"), PACKS[:-2])
@given(noise=st.binary(min_size=1, max_size=50), cut=st.integers(0, 40))
def test_noise_and_halves_are_refused_and_nothing_else_happens(
    encoding: str, pack: Pack, noise: bytes, cut: int
) -> None:
    packed = pack(b'{"prompt": "hi"}')
    for broken in (noise, packed[:cut], packed + noise, packed[:cut] + noise):
        if broken == packed:
            continue
        unpacker = unpacker_of(encoding)
        try:
            b"".join(unpacker.unpack(broken))
        except InvalidRequest as error:
            assert error.param == "content-encoding"


@pytest.mark.parametrize(
    "encoding", ["br", "compress", "gzip, gzip", "gzip,zstd", "x-zstd", "\xff", "gzip;q=1"]
)
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding):
        unpacker_of(encoding)


@pytest.mark.parametrize(("encoding", "pack"), PACKS[:-2])
def test_a_packed_request_is_answered(encoding: str, pack: Pack) -> None:
    async def test(world: World) -> None:
        body = json.dumps({"prompt": "hi", "stream": False, "max_tokens": 2}).encode()
        headers = {"content-type": "application/json", "content-encoding": encoding}
        response = await world.client.post("/v1/streams", content=pack(body), headers=headers)
        assert response.status_code == 200 and response.json()["choices"][0]["text"] == "ok"
        response = await world.client.post("/v1/streams", content=pack(body)[:-9], headers=headers)
        check_error(response, 400, "invalid_request", "content-encoding")

    live(test)


@pytest.mark.parametrize(("encoding", "pack"), PACKS[:-2])
def test_a_bomb_is_too_large_before_it_is_unpacked(encoding: str, pack: Pack) -> None:
    bomb = pack(bytes(64 * MIB))[: MAX_BODY_BYTES * 40]

    async def test(world: World) -> None:
        async def parts() -> object:
            for begin in range(0, len(bomb), 1000):
                yield bomb[begin : begin + 1000]

        headers = {"content-type": "application/json", "content-encoding": encoding}
        tracemalloc.start()
        response = await world.client.post("/v1/streams", content=parts(), headers=headers)  # type: ignore[arg-type]
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        check_error(response, 413, "body_too_large")
        assert peak_bytes < 4 * MIB

    live(test)


def test_an_unknown_encoding_is_answered_with_the_known_ones() -> None:
    async def test(world: World) -> None:
        headers = {"content-type": "application/json", "content-encoding": "br"}
        response = await world.client.post("/v1/streams", content=b"x", headers=headers)
        check_error(response, 415, "unsupported_content_encoding", "content-encoding")
        assert response.headers["accept-encoding"] == ACCEPTED == "gzip, deflate, zstd"
        response = await world.client.post(
            "/v1/streams", content=b"x", headers={"content-type": "text/plain"}
        )
        check_error(response, 415, "unsupported_media_type", "content-type")
        assert "accept-encoding" not in response.headers

    live(test)


def test_a_frame_that_asks_for_too_much_memory_is_refused() -> None:
    packed = far_back(bytes(1000))
    with pytest.raises(InvalidRequest, match="not valid zstd"):
        b"".join(unpacker_of("zstd").unpack(packed))
