"""When the long gaps between tokens come: second by second, beside the streams that begin and end.

    python benchmarks/gaps.py [--clients 128] [--tokens 300] [--requests 256]

Starts the shipped configuration with the simulated engine, as `streaming-inference bench serve --target project` does, and
prints a line for each second of the load: streams that were read, began and ended, gaps over 1.75 steps, and how many of those
ended with a delta of several tokens (the step before came too late, or its token had no text of its own).
Ports 8000, 8404 and 9101 must be free.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.serve.load import run_load
from benchmarks.serve.samples import StreamSample
from benchmarks.serve.server import running
from benchmarks.serve.summary import percentile
from benchmarks.serve.targets import TARGETS, Plan
from benchmarks.serve.workload import Workload

STEP_S = 0.02
LONG_S = 1.75 * STEP_S


def by_second(samples: list[StreamSample]) -> list[dict[str, object]]:
    """What happened in each second of the load."""
    load_began_s = min(sample.due_s for sample in samples)
    gaps_s: defaultdict[int, list[float]] = defaultdict(list)
    began, ended, of_several = Counter[int](), Counter[int](), Counter[int]()
    for sample in samples:
        began[int(sample.due_s - load_began_s)] += 1
        ended[int(sample.ended_s - load_began_s)] += 1
        for gap_s, arrived_s, tokens in zip(
            sample.gaps_s(), sample.arrivals_s[1:], sample.tokens[1:], strict=True
        ):
            second = int(arrived_s - load_began_s)
            gaps_s[second].append(gap_s)
            of_several[second] += gap_s > LONG_S and tokens > 1
    return [
        {
            "second": second,
            "streams": sum(began[past] - ended[past] for past in range(second)) + began[second],
            "began": began[second],
            "ended": ended[second],
            "gaps": len(gaps_s[second]),
            "long": sum(gap_s > LONG_S for gap_s in gaps_s[second]),
            "before_several_tokens": of_several[second],
        }
        for second in sorted(gaps_s)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Says when the long gaps come.")
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--requests", type=int, default=256)
    options = parser.parse_args()
    workload = Workload(clients=options.clients, requests=options.requests, tokens=options.tokens)
    plan = Plan(workload, STEP_S, STEP_S, Path("serve_config.yaml"), Path("deployments/default_model/data"))
    with tempfile.TemporaryDirectory() as directory:
        launch = TARGETS["project"](plan, Path(directory))
        with running(launch.command, ports=launch.ports, environment=launch.environment) as server:
            server.wait_until_healthy(launch.endpoint.port, launch.health_path, launch.start_timeout_s)
            for _ in range(2):  # the first load warms it up
                samples = run_load(launch.endpoint, workload, processes=1, moment=server.snapshot).samples
    for line in by_second(samples):
        print(json.dumps(line))
    gaps_s = sorted(gap_s for sample in samples for gap_s in sample.gaps_s())
    print(
        json.dumps(
            {
                f"p{100 * share:g}_ms": round(1e3 * percentile(gaps_s, share), 1)
                for share in (0.5, 0.99, 0.999)
            }
        )
    )


if __name__ == "__main__":
    main()
