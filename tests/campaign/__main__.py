"""Runs a campaign: python -m tests.campaign [--seed 1] [--duration 300] [--streams 12] [--json PATH]

Exits with 1 if a stream was not what it must be. The seed repeats the requests, the calls and the disturbances.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from tests.campaign.campaign import campaign_config, run
from tests.integration.cluster import Cluster


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--duration", type=float, default=300.0, help="seconds of load")
    parser.add_argument("--streams", type=int, default=12, help="streams at a time")
    parser.add_argument("--json", type=Path, help="where to write the report")
    arguments = parser.parse_args()
    cluster = Cluster(campaign_config())
    try:
        cluster.start()
        report = asyncio.run(run(cluster, arguments.seed, arguments.duration, arguments.streams))
    finally:
        cluster.stop()
    print(report.table())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_dict(), indent=2))
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
