"""Runs a campaign.

    python -m tests.campaign [--seed 1] [--duration 300 | --killed 200] [--streams 12] [--store redis]
        [--dtype float32] [--json PATH]

Exits with 1 if a stream was not what it must be, or if something is left at the end. The seed repeats the
requests, the calls and the disturbances.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from tests.campaign.campaign import Campaign, world


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--duration", type=float, help="seconds of load: 300, and 3600 with --killed, if not given"
    )
    parser.add_argument(
        "--killed",
        type=int,
        default=0,
        help="only kill generators, until so many streams of each kind have lost theirs",
    )
    parser.add_argument("--streams", type=int, default=12, help="streams at a time")
    parser.add_argument("--store", choices=["redis", "memory"], default="redis", help="the stream store")
    parser.add_argument(
        "--dtype", default="float32", help="as in the configuration; bfloat16 is slow where the CPU lacks it"
    )
    parser.add_argument("--json", type=Path, help="where to write the report")
    arguments = parser.parse_args()
    with world(arguments.store, arguments.dtype) as started:
        campaign = Campaign(
            started,
            arguments.seed,
            duration_s=arguments.duration or (3600.0 if arguments.killed else 300.0),
            streams=arguments.streams,
            killed=arguments.killed,
        )
        report = asyncio.run(campaign.run())
    print(report.table())
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.as_dict(), indent=2))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
