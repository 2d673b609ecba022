"""A campaign: the load, the disturbances and the check, on a cluster of its own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.campaign.census import census_of, settled
from tests.campaign.clients import Clients
from tests.campaign.disturber import Disturber, Event
from tests.campaign.oracle import violations
from tests.campaign.plan import KINDS, ROUND, Call, Disturbance, Plan, kinds_of
from tests.campaign.record import Record
from tests.campaign.replay import SteeredStream, replayed
from tests.campaign.report import Report, quiet_moments
from tests.integration.cluster import Cluster, shipped_config
from tests.integration.redis_server import RedisServer

MODEL = "storyteller"
LONG_TOKENS = 800

Result = tuple[Call, Record | str]
"""What came of a call: what its client got, or why it got no more."""


class World:
    """A started cluster, and the Redis that is its stream store if that is not a process of the cluster."""

    def __init__(self, cluster: Cluster, redis: RedisServer | None) -> None:
        self.cluster = cluster
        self.redis = redis


@contextmanager
def world(store: str, dtype: str) -> Iterator[World]:
    """The shipped configuration with two generators, of the real engine, and two ingress processes.

    `store`: redis or memory. `dtype`: as in the configuration.
    """
    config = shipped_config()
    args = config["applications"][0]["args"]
    args["models"][0] |= {
        "min_replicas": 2,
        "max_replicas": 2,
        "cpus_per_replica": 0.2,
        "dtype": dtype,
        "threads": 1,
    }
    args["ingress"] = {"replicas": 2}
    args["streams"]["replica_wait_s"] = 60  # a replica takes longer to start on a busy machine
    variables = config["controller_options"]["runtime_env"]["env_vars"]
    variables["RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE"] = "1"  # for `Losses`
    with ExitStack() as stack:
        redis = None
        if store == "redis":
            redis = RedisServer(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            redis.start()
            stack.callback(redis.kill)
            args["streams"] |= {"backend": "redis", "redis_url": redis.url}
        # Ray lets the processes of replicas give way to all others, which would be measured, too.
        cluster = Cluster(config, RAY_worker_niceness="0")
        stack.callback(cluster.stop)
        cluster.start()
        yield World(cluster, redis)


class Campaign:
    """`streams` run at any time, for `duration_s` seconds and until everything of `done` was done once.

    With `killed`, generators are killed, and nothing else is done, until so many streams of each kind have lost theirs, or for so
    long.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        duration_s: float,
        streams: int,
        killed: int = 0,
        done: Sequence[Disturbance] = ROUND,
    ) -> None:
        self._cluster = world.cluster
        # Streams that last as long as a replacement takes to start: most of them are at the generator that is killed next.
        self._plan = Plan(seed, model=MODEL, tokens=LONG_TOKENS) if killed else Plan(seed, model=MODEL)
        self._disturber = Disturber(world.cluster, MODEL, world.redis, seed)
        self._forgets = world.redis is None
        self._seed = seed
        self._duration_s = duration_s
        self._streams = streams
        self._killed = killed
        self._done: Sequence[Disturbance] = ["kill generator"] if killed else done
        self._results: list[Result] = []
        self._unrecovered: list[str] = []
        self._is_over = False

    async def run(self) -> Report:
        """Starts the load, disturbs it, waits for the end of the last stream, and looks at all."""
        undisturbed = await self._undisturbed()
        before = await census_of(self._cluster, self._disturber, MODEL)
        began_s = time.monotonic()
        clients = self._clients()
        try:
            calls = self._plan.calls()
            workers = (self._work(clients, calls) for _ in range(self._streams))
            await asyncio.gather(self._disturb(began_s), *workers)
        finally:
            await clients.close()
        ended_s = time.monotonic()
        after = await settled(self._cluster, self._disturber, MODEL, before)
        events = self._disturber.events
        report = Report(
            self._seed, ended_s - began_s, events, quiet_moments(events, began_s, ended_s), before, after
        )
        report.left += [*self._unrecovered, *after.differences(before)]
        self._judge(report, undisturbed)
        return report

    def _clients(self) -> Clients:
        return Clients(self._cluster.base_url, self._cluster.grpc_address, forgets=self._forgets)

    async def _undisturbed(self) -> list[Record]:
        """What the requests give while nothing is done."""
        clients = self._clients()
        try:
            calls = [Call(number, "sse") for number in range(len(self._plan.requests))]
            return [await clients.read(call, self._plan.requests[call.request]) for call in calls]
        finally:
            await clients.close()

    async def _work(self, clients: Clients, calls: Iterator[Call]) -> None:
        """One stream after the other."""
        while not self._is_over:
            call = next(calls)
            try:
                self._results.append((call, await clients.read(call, self._plan.requests[call.request])))
            except Exception as error:
                self._results.append((call, f"{type(error).__name__}: {error}"))

    async def _disturb(self, began_s: float) -> None:
        """One thing after the other, until it is enough."""
        events = self._disturber.events
        try:
            for pause_s, kind in self._plan.disturbances(self._done):
                await asyncio.sleep(pause_s)
                is_over = time.monotonic() - began_s > self._duration_s
                if self._killed:
                    is_enough = lost_of_each_kind(self._plan, self._results, events) >= self._killed
                    if is_enough or is_over:
                        return
                elif is_over and len(events) >= len(self._done):
                    return
                await self._disturber.do(kind)
        except AssertionError as error:
            self._unrecovered.append(f"{kind}: {error}")
        finally:
            self._is_over = True

    def _judge(self, report: Report, undisturbed: Sequence[Record]) -> None:
        """Adds each stream, with what is wrong with it."""
        steered: dict[int, SteeredStream] = {}
        for number, (call, record) in enumerate(self._results):
            if isinstance(record, Record) and record.steered and not record.cut:
                assert call.edit is not None
                piece = record.steered[0]
                position = int(piece["cursor"]) - piece["tokens"]
                steered[number] = SteeredStream(self._plan.requests[call.request], position, call.edit.text)
        args = self._cluster.config["applications"][0]["args"]
        tokens = dict(zip(steered, replayed(args, list(steered.values())), strict=True))
        for number, (call, record) in enumerate(self._results):
            fields = self._plan.requests[call.request]
            if isinstance(record, str):
                report.add(call, fields, Record(), [record])
            else:
                found = violations(record, undisturbed[call.request], call.edit, tokens.get(number))
                report.add(call, fields, record, found)


def lost_of_each_kind(plan: Plan, results: Sequence[Result], events: Sequence[Event]) -> int:
    """So many streams of each kind have lost a generator, at least."""
    lost = frozenset[str]().union(*(event.lost for event in events))
    kinds = [
        kinds_of(plan.requests[call.request])
        for call, record in results
        if isinstance(record, Record) and record.stream in lost
    ]
    return min(sum(kind in of for of in kinds) for kind in KINDS)
