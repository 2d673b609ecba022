"""The work of a load client and its endpoint. Every count and every time is bounded when a record is created."""

from __future__ import annotations

import ipaddress
from typing import Literal

import msgspec

MAX_CLIENTS = 4_096
MAX_TOKENS_IN_ALL = 10_000_000
MAX_DURATION_S = 3_600.0

DialectName = Literal["native", "chat", "plain"]


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One route of a server on this machine. Raises `ValueError` for an address that is not loopback."""

    port: int
    path: str
    dialect: DialectName
    model: str = ""
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.host).is_loopback:
            raise ValueError(
                f"the address {self.host} is not loopback, and the load client connects to loopback only"
            )
        if not 0 < self.port < 65_536:
            raise ValueError(f"{self.port} is not a port; ports are 1 to 65535")


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The streams of a load.

    Closed loop (`rate_per_s` is None): `clients` clients, started evenly over `ramp_s`, each sends its next request when its
    last stream has ended. Open loop: requests are due at the times of a Poisson process of `rate_per_s`, drawn from `seed`,
    whatever the server does; `clients` is then the maximum of concurrent streams, and a request beyond it is dropped and counted.

    No request starts after `requests` of them or after `duration_s`. The client abandons a stream after `timeout_s`.
    `readers_stalled` additional clients send a request for `stalled_tokens` tokens at the start and never read.
    """

    clients: int
    requests: int
    tokens: int
    rate_per_s: float | None = None
    duration_s: float = 300.0
    timeout_s: float = 120.0
    ramp_s: float = 0.0
    prompt_tokens: int = 16
    ignore_eos: bool = True
    readers_stalled: int = 0
    stalled_tokens: int = 2_048
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("clients", "requests", "tokens", "prompt_tokens", "stalled_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, the minimum is 1")
        if self.clients + self.readers_stalled > MAX_CLIENTS or self.readers_stalled < 0:
            raise ValueError(
                f"{self.clients} clients and {self.readers_stalled} that never read; "
                f"the maximum of both together is {MAX_CLIENTS}, the minimum of each 1 and 0"
            )
        if self.requests * self.tokens > MAX_TOKENS_IN_ALL:
            raise ValueError(
                f"requests x tokens is {self.requests * self.tokens}, the maximum is {MAX_TOKENS_IN_ALL}"
            )
        if not 0 < self.duration_s <= MAX_DURATION_S or not 0 < self.timeout_s <= MAX_DURATION_S:
            raise ValueError(
                f"duration_s is {self.duration_s}, timeout_s is {self.timeout_s}; both must be above 0 "
                f"and at most {MAX_DURATION_S:g}"
            )
        if not 0 <= self.ramp_s <= self.duration_s:
            raise ValueError(
                f"ramp_s is {self.ramp_s}, it must be between 0 and duration_s, {self.duration_s}"
            )
        if self.rate_per_s is not None and not 0 < self.rate_per_s <= 100_000:
            raise ValueError(f"rate_per_s is {self.rate_per_s}, it must be above 0 and at most 100000")

    @property
    def deadline_s(self) -> float:
        """Seconds after which the whole load ends, whatever the server does."""
        return self.duration_s + self.timeout_s + 5

    def share(self, index: int, parts: int) -> Workload:
        """Part `index` of this workload for one of `parts` client processes; the parts add up to the whole."""
        return msgspec.structs.replace(
            self,
            clients=_portion(self.clients, index, parts),
            requests=_portion(self.requests, index, parts),
            readers_stalled=_portion(self.readers_stalled, index, parts),
            rate_per_s=None if self.rate_per_s is None else self.rate_per_s / parts,
            seed=self.seed + index,
        )


def _portion(whole: int, index: int, parts: int) -> int:
    return whole // parts + (1 if index < whole % parts else 0)
