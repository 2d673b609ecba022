"""Whether the time of an answer distinguishes a stream of another caller from one that does not exist.

    python -m benchmarks.foreign_ids [--url http://127.0.0.1:8000] [--rounds 1000]

Asks a running server, on one connection and in random order, for streams of another caller (one that runs, one that has
ended) and for one that does not exist. Every answer must be the same 404. Prints the medians, and how often an answer about the
foreign stream took longer than one about an unknown id. 0.5 is no difference; chance alone stays within the bounds beside it in
95 of 100 measurements (the normal approximation of the Mann-Whitney U test).
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import random
import secrets
import statistics
import time
from collections import defaultdict

import httpx

ROUTES = (("GET", ""), ("GET", "/events"), ("DELETE", ""))
MINE, OTHERS = {"authorization": "Bearer mine"}, {"authorization": "Bearer other"}
KINDS = ("unknown", "running", "ended")


def start(client: httpx.Client, **fields: object) -> str:
    body = {"prompt": "Once upon a time", "detach": True, "on_disconnect": "continue", "ignore_eos": True}
    answer = client.post("/v1/streams", json={**body, **fields}, headers=OTHERS)
    answer.raise_for_status()
    return str(answer.json()["stream"])


def state(client: httpx.Client, stream: str) -> str:
    return str(client.get(f"/v1/streams/{stream}", headers=OTHERS).json()["state"])


def exceeds(these: list[float], those: list[float]) -> float:
    """How often one of `these` exceeds one of `those`; a tie counts half."""
    ordered = sorted(those)
    wins = sum(bisect.bisect_left(ordered, one) + bisect.bisect_right(ordered, one) for one in these)
    return wins / (2 * len(these) * len(those))


def measure(client: httpx.Client, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of the answers to each kind of id on each route."""
    took_ms: dict[tuple[str, str], list[float]] = defaultdict(list)
    ended = start(client, max_tokens=5)
    while state(client, ended) == "running":
        time.sleep(0.05)
    running = start(client, max_tokens=200)
    # Always the same id, as with the others: a new string costs a little more in each look-up.
    unknown = f"st_{secrets.token_hex(16)}"
    bodies = set()
    for _ in range(rounds):
        if state(client, running) != "running":
            running = start(client, max_tokens=200)
        asked = [(kind, route) for kind in KINDS for route in ROUTES]
        for kind, (method, tail) in random.sample(asked, len(asked)):
            stream = {"unknown": unknown, "running": running, "ended": ended}[kind]
            began_s = time.perf_counter()
            answer = client.request(method, f"/v1/streams/{stream}{tail}", headers=MINE)
            took_ms[kind, f"{method} {tail}"].append((time.perf_counter() - began_s) * 1000)
            bodies.add((answer.status_code, answer.content))
    assert len(bodies) == 1 and next(iter(bodies))[0] == 404, bodies
    return took_ms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    with httpx.Client(base_url=options.url, timeout=60) as client:
        measure(client, 20)  # warm
        took_ms = measure(client, options.rounds)
    # Two samples of n: the standard deviation of the share is sqrt((2n + 1) / 12) / n.
    bound = 1.96 * math.sqrt((2 * options.rounds + 1) / 12) / options.rounds
    for method, tail in ROUTES:
        route = f"{method} {tail}"
        unknown = took_ms["unknown", route]
        for kind in KINDS[1:]:
            foreign = took_ms[kind, route]
            line = {
                "route": route.strip(),
                "foreign": kind,
                "foreign_p50_ms": round(statistics.median(foreign), 3),
                "unknown_p50_ms": round(statistics.median(unknown), 3),
                "foreign_takes_longer": round(exceeds(foreign, unknown), 3),
                "by_chance": [round(0.5 - bound, 3), round(0.5 + bound, 3)],
            }
            print(json.dumps(line))


if __name__ == "__main__":
    main()
