"""The links to the replicas of a deployment, over real connections on the loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from deployments.ingress.replica_links import ReplicaLinks
from deployments.ingress.replicas import ReplicaDirectory, ReplicaGone
from deployments.links.address import LinkAddress
from deployments.links.link import LinkBroken
from tests.deployments.links.harness import HOST, PATIENCE_S, Callee, until


class Deployment:
    """Replicas of the test, as their directory lists them."""

    def __init__(self) -> None:
        self.directory = ReplicaDirectory()
        self.replicas: dict[str, Callee] = {}
        self.found: list[str] = []
        self.links = ReplicaLinks(self.directory, self.find)

    async def find(self, replica: str) -> LinkAddress:
        self.found.append(replica)
        if replica not in self.replicas:
            raise ReplicaGone(replica)
        return await self.replicas[replica].server.listen(HOST)

    def add(self, name: str) -> Callee:
        callee = self.replicas[name] = Callee()
        self.directory.publish(self.replicas)
        return callee

    def reached(self, *replicas: str) -> bool:
        """Whether the client has connections to all of these."""
        try:
            return all(self.links.to(replica) for replica in replicas)
        except (LinkBroken, ReplicaGone):
            return False

    async def connected(self, replicas: int) -> None:
        callees = self.replicas.values()
        await until(lambda: sum(len(callee.server.connections) for callee in callees) == replicas)

    async def close(self) -> None:
        await self.links.close()
        for callee in self.replicas.values():
            await callee.server.close()


def deployed(test: Callable[[Deployment], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            deployment = Deployment()
            deployment.links.start()
            try:
                await test(deployment)
            finally:
                await deployment.close()

    asyncio.run(main())


def test_a_call_waits_for_the_first_replica() -> None:
    async def test(deployment: Deployment) -> None:
        call = asyncio.ensure_future(deployment.links.call(b"ab", PATIENCE_S))
        await asyncio.sleep(0)
        deployment.add("a")
        assert await call == b"ba"

    deployed(test)


def test_a_call_that_no_replica_takes_in_time_fails() -> None:
    async def test(deployment: Deployment) -> None:
        with pytest.raises(TimeoutError):
            await deployment.links.call(b"ab", 0.0)

    deployed(test)


def test_replicas_share_the_calls() -> None:
    async def test(deployment: Deployment) -> None:
        callees = [deployment.add(name) for name in "abc"]
        await deployment.connected(3)
        await deployment.links.call(b"ab", PATIENCE_S)
        calls = [asyncio.ensure_future(deployment.links.call(b"wait", PATIENCE_S)) for _ in range(6)]
        for callee in callees:
            await callee.until(lambda callee=callee: callee.waiting == 2)  # type: ignore[misc]
            callee.go_on.set()
        await asyncio.gather(*calls)

    deployed(test)


def test_a_broken_link_is_made_again() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        call = asyncio.ensure_future(deployment.links.call(b"wait", PATIENCE_S))
        await callee.until(lambda: callee.waiting == 1)
        for connection in list(callee.server.connections):
            connection.abort()
        with pytest.raises(LinkBroken):
            await call
        assert await deployment.links.call(b"ab", PATIENCE_S) == b"ba"
        assert deployment.found == ["a", "a"]

    deployed(test)


def test_a_replica_that_is_not_listed_any_more_gets_no_calls_but_may_end_those_it_has() -> None:
    async def test(deployment: Deployment) -> None:
        old = deployment.add("a")
        call = asyncio.ensure_future(deployment.links.call(b"wait", PATIENCE_S))
        await old.until(lambda: old.waiting == 1)
        new = deployment.replicas["b"] = Callee()
        deployment.directory.publish(["b"])
        await until(lambda: deployment.found == ["a", "b"])
        later = asyncio.ensure_future(deployment.links.call(b"wait", PATIENCE_S))
        await new.until(lambda: new.waiting == 1)
        old.go_on.set()
        new.go_on.set()
        assert [await call, await later] == [b"tiaw"] * 2
        assert old.waiting == 0

    deployed(test)


def test_a_replica_that_cannot_be_found_is_tried_again() -> None:
    async def test(deployment: Deployment) -> None:
        deployment.directory.publish(["a"])
        await until(lambda: deployment.found == ["a"])
        deployment.replicas["a"] = Callee()
        assert await deployment.links.call(b"ab", PATIENCE_S) == b"ba"

    deployed(test)


def test_a_connection_that_is_dead_is_given_up_after_a_timeout() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        await deployment.links.call(b"ab", PATIENCE_S)
        with pytest.raises(TimeoutError):
            await deployment.links.call(b"wait", 0.01)
        await callee.until(lambda: callee.cancelled == 1)
        assert await deployment.links.call(b"ab", PATIENCE_S) == b"ba"
        assert deployment.found == ["a", "a"]

    deployed(test)


def test_an_answer_to_another_call_shows_that_the_connection_lives() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        late = asyncio.ensure_future(deployment.links.call(b"wait", 0.1))
        await callee.until(lambda: callee.waiting == 1)
        await deployment.links.call(b"ab", PATIENCE_S)
        with pytest.raises(TimeoutError):
            await late
        await deployment.links.call(b"ab", PATIENCE_S)
        assert deployment.found == ["a"]

    deployed(test)


def test_a_replica_is_reached_by_its_name() -> None:
    async def test(deployment: Deployment) -> None:
        for name in "ab":
            deployment.add(name)
        with pytest.raises(LinkBroken):
            deployment.links.to("a")
        await deployment.connected(2)
        await deployment.links.call(b"ab", PATIENCE_S)
        await until(lambda: deployment.reached("a", "b"))
        for name in "ab":
            calling = asyncio.ensure_future(deployment.links.to(name).call(b"wait"))
            callee = deployment.replicas[name]
            await callee.until(lambda callee=callee: callee.waiting == 1)  # type: ignore[misc]
            callee.go_on.set()
            await calling
        with pytest.raises(ReplicaGone):
            deployment.links.to("c")

    deployed(test)


def test_a_replica_that_is_not_listed_is_reached_while_calls_are_open_there() -> None:
    async def test(deployment: Deployment) -> None:
        callee = deployment.add("a")
        call = asyncio.ensure_future(deployment.links.call(b"wait", PATIENCE_S))
        await callee.until(lambda: callee.waiting == 1)
        deployment.directory.publish([])
        await asyncio.sleep(0)
        assert await deployment.links.to("a").call(b"ab") == b"ba"
        callee.go_on.set()
        assert await call == b"tiaw"
        await until(lambda: not callee.server.connections)
        await until(lambda: not deployment.reached("a"))
        with pytest.raises(ReplicaGone):
            deployment.links.to("a")

    deployed(test)
