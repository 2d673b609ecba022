"""Packets come out whole; an address crosses as bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.links.address import LinkAddress, decode_address, encode_address
from deployments.links.link import LinkBroken
from deployments.links.packet import Packet, PacketReader
from tests.deployments.links.harness import HOST, packet


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=40))),
    st.lists(st.integers(1, 30)),
)
def test_packets_come_out_however_they_are_cut(
    packets: list[tuple[int, int, bytes]], lengths: list[int]
) -> None:
    data = b"".join(packet(*each) for each in packets)
    reader = PacketReader(40)
    found: list[Packet] = []
    for length in lengths:
        found += reader.feed(data[:length])
        data = data[length:]
    found += reader.feed(data)
    assert found == packets


def test_a_packet_that_is_too_long_is_refused_by_its_header() -> None:
    reader = PacketReader(8)
    assert list(reader.feed(packet(1, 2, b"12345678"))) == [(1, 2, b"12345678")]
    with pytest.raises(LinkBroken):
        list(reader.feed(struct.pack(">IBQ", 9, 1, 3)))


def test_an_address_crosses_as_bytes() -> None:
    address = LinkAddress(HOST, 7, b"\x00s")
    assert decode_address(encode_address(address)) == address
