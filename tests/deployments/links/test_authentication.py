"""Only callers who know the secret and keep to the protocol get answers."""

from __future__ import annotations

import asyncio

import pytest

from deployments.links.address import LinkAddress
from deployments.links.connection import LinkConnection, connect
from deployments.links.link import LinkBroken
from deployments.links.packet import ANSWER, CALL, HELLO, MAX_HELLO_BYTES, WELCOME
from deployments.links.server import MAX_UNAUTHENTICATED
from tests.deployments.links.harness import HOST, Callee, hung_up, live, packet, until


@pytest.mark.parametrize(
    "words",
    [
        packet(HELLO, 0, b"guess"),
        packet(HELLO, 0, b""),
        packet(CALL, 1, b"ab"),
        packet(HELLO, 0, b"x" * (MAX_HELLO_BYTES + 1)),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_a_caller_without_the_secret_gets_no_answer(words: bytes) -> None:
    async def main() -> None:
        callee = Callee()
        address = await callee.server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(words)
        await hung_up(reader)
        writer.close()
        with pytest.raises(LinkBroken):
            await connect(LinkAddress(address.host, address.port, b"guess"))
        await callee.server.close()

    asyncio.run(main())


def test_a_caller_that_sends_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.links.server.HELLO_TIMEOUT_S", 0.01)

    async def main() -> None:
        callee = Callee()
        address = await callee.server.listen(HOST)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        await hung_up(reader)
        writer.close()
        await callee.server.close()

    asyncio.run(main())


def test_callers_without_the_secret_are_bounded_and_do_not_disturb_the_others() -> None:
    async def test(callee: Callee, connection: LinkConnection) -> None:
        address = await callee.server.listen(HOST)
        strangers = [await asyncio.open_connection(HOST, address.port) for _ in range(MAX_UNAUTHENTICATED)]
        await until(lambda: callee.server.unauthenticated == MAX_UNAUTHENTICATED)
        reader, writer = await asyncio.open_connection(HOST, address.port)
        await hung_up(reader)
        assert await connection.call(b"ab") == b"ba"
        for _, each in [*strangers, (reader, writer)]:
            each.close()

    live(test)


def test_a_packet_against_the_protocol_closes_the_connection() -> None:
    async def main() -> None:
        callee = Callee()
        address = await callee.server.listen(HOST)
        for nonsense in (packet(ANSWER, 1), packet(HELLO, 0), packet(CALL, 1, b"wait") * 2):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(packet(HELLO, 0, address.secret))
            assert await reader.readexactly(13) == packet(WELCOME, 0)
            writer.write(nonsense)
            await hung_up(reader)
            writer.close()
        await callee.server.close()

    asyncio.run(main())
