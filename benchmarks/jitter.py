"""What the jitter buffer of the client library does on links that deliver unevenly, and what it costs.

    python -m benchmarks.jitter [--tokens 2000] [--seed 1]

A server makes a token every 20 ms. Links delay each token at random and keep their order. The buffer is
`streaming_inference.jitter.Playout`, which `stream.text(smooth=True)` uses; time is simulated, so the figures are the same on
every machine. ITL is the time between two texts; long ITL is the share of it that is longer than twice the median.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

from streaming_inference.jitter import Piece, Playout

STEP_S = 0.02


@dataclass(frozen=True)
class Played:
    """When tokens were played, against when they arrived."""

    times_s: list[float]
    delays_s: list[float]

    @property
    def itl_s(self) -> list[float]:
        return [late_s - early_s for early_s, late_s in pairwise(self.times_s)]

    @property
    def long_itl(self) -> float:
        limit_s = 2 * median(self.itl_s) + 1e-9
        return sum(each_s > limit_s for each_s in self.itl_s) / len(self.itl_s)


def even(rng: random.Random, sent_s: float) -> float:
    """A cable: a millisecond or two."""
    return rng.gammavariate(2, 0.0005)


def wireless(rng: random.Random, sent_s: float) -> float:
    """A wireless network: some milliseconds, and one packet in a hundred that is sent again."""
    return rng.gammavariate(2, 0.004) + (rng.uniform(0.06, 0.2) if rng.random() < 0.01 else 0.0)


def mobile(rng: random.Random, sent_s: float) -> float:
    """A mobile network: a turn every 100 ms, and three long silences in a thousand packets."""
    turn_s = 0.1 - sent_s % 0.1
    return turn_s + rng.gammavariate(2, 0.005) + (rng.uniform(0.2, 0.5) if rng.random() < 0.003 else 0.0)


def proxy(rng: random.Random, sent_s: float) -> float:
    """A proxy that forwards its buffer four times a second."""
    return 0.25 - sent_s % 0.25


LINKS: dict[str, Callable[[random.Random, float], float]] = {
    "even": even,
    "wireless": wireless,
    "mobile": mobile,
    "proxy": proxy,
}
COLUMNS = (
    "long ITL without",
    "with",
    "longest ITL without, ms",
    "with, ms",
    "added delay in the mean, ms",
    "of the first text, ms",
    "of the last text, ms",
)


def arrivals(link: Callable[[random.Random, float], float], tokens: int, seed: int) -> Iterator[float]:
    """When each token arrives. None overtakes another."""
    rng = random.Random(seed)
    last_s = 0.0
    for number in range(tokens):
        sent_s = number * STEP_S
        last_s = max(last_s, sent_s + link(rng, sent_s))
        yield last_s


def played(arrived_s: list[float]) -> Played:
    """The arrivals through the buffer, with a player that is never late."""
    playout = Playout()
    times_s: list[float] = []
    coming = deque(arrived_s)
    now_s = 0.0
    while coming or len(playout):
        if not coming:
            playout.finish()
        due_s = playout.due_s()
        if coming and (due_s is None or coming[0] <= max(due_s, now_s)):
            now_s = max(now_s, coming[0])
            playout.arrive(Piece("word ", 1), coming.popleft())
        elif due_s is not None:
            now_s = max(now_s, due_s)
            playout.take(now_s)
            times_s.append(now_s)
    return Played(times_s, [at_s - came_s for at_s, came_s in zip(times_s, arrived_s, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("| link | " + " | ".join(COLUMNS) + " |")
    print("|:--" + "|--:" * len(COLUMNS) + "|")
    for name, link in LINKS.items():
        arrived_s = list(arrivals(link, options.tokens, options.seed))
        plain = Played(arrived_s, [0.0] * len(arrived_s))
        smooth = played(arrived_s)
        cells = [
            f"{100 * plain.long_itl:.1f} %",
            f"{100 * smooth.long_itl:.1f} %",
            f"{1000 * max(plain.itl_s):.0f}",
            f"{1000 * max(smooth.itl_s):.0f}",
            f"{1000 * mean(smooth.delays_s):.0f}",
            f"{1000 * smooth.delays_s[0]:.0f}",
            f"{1000 * smooth.delays_s[-1]:.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
