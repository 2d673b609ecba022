"""When long inter-token latencies (ITL) occur: second by second, beside the streams that begin and end.

    python -m benchmarks.itl [--clients 128] [--tokens 300] [--requests 256]

Starts the shipped configuration with the simulated engine, as `streaming-inference bench serve --target project` does, and
prints a line for each second of the load: how many streams were read, began and ended, how many ITLs there were, how many of
them were long (over 1.75 steps), and how many of the long ones ended with a delta of several tokens (the step before came too
late, or its token had no text of its own). Ports 8000, 8404 and 9101 must be free.
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
from benchmarks.serve.summary import quantiles
from benchmarks.serve.targets import TARGETS, Plan
from benchmarks.serve.workload import Workload

STEP_S = 0.02
LONG_S = 1.75 * STEP_S
# In thousandths: the median, the 99th and the 99.9th percentile.
SHOWN = (500, 990, 999)


def by_second(samples: list[StreamSample]) -> list[dict[str, object]]:
    """What happened in each second of the load."""
    load_began_s = min(sample.due_s for sample in samples)
    itl_s: defaultdict[int, list[float]] = defaultdict(list)
    began, ended, of_several = Counter[int](), Counter[int](), Counter[int]()
    for sample in samples:
        began[int(sample.due_s - load_began_s)] += 1
        ended[int(sample.ended_s - load_began_s)] += 1
        for each_s, arrived_s, tokens in zip(
            sample.itl_s(), sample.arrivals_s[1:], sample.tokens[1:], strict=True
        ):
            second = int(arrived_s - load_began_s)
            itl_s[second].append(each_s)
            of_several[second] += each_s > LONG_S and tokens > 1
    return [
        {
            "second": second,
            "streams": sum(began[past] - ended[past] for past in range(second)) + began[second],
            "began": began[second],
            "ended": ended[second],
            "itl": len(itl_s[second]),
            "long": sum(each_s > LONG_S for each_s in itl_s[second]),
            "before_several_tokens": of_several[second],
        }
        for second in sorted(itl_s)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--requests", type=int, default=256)
    options = parser.parse_args()
    workload = Workload(clients=options.clients, requests=options.requests, tokens=options.tokens)
    plan = Plan(workload, STEP_S, STEP_S, Path("serve_config.yaml"), Path("deployments/model/data"))
    with tempfile.TemporaryDirectory() as directory:
        launch = TARGETS["project"](plan, Path(directory))
        with running(launch.command, ports=launch.ports, environment=launch.environment) as server:
            server.wait_until_healthy(launch.endpoint.port, launch.health_path, launch.start_timeout_s)
            for _ in range(2):  # the first load warms it up
                samples = run_load(launch.endpoint, workload, processes=1, moment=server.snapshot).samples
    for line in by_second(samples):
        print(json.dumps(line))
    thousandths_s = quantiles([itl_s for sample in samples for itl_s in sample.itl_s()], 1000)
    print(json.dumps({f"p{part / 10:g}_ms": round(1e3 * thousandths_s[part - 1], 1) for part in SHOWN}))


if __name__ == "__main__":
    main()
