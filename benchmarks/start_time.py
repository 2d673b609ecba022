"""Seconds from `serve run` to the first streamed token, and of an empty Serve application to its first answer.

    python -m benchmarks.start_time [--rounds 1]

Both run in HAProxy mode with the shipped `controller_options`, one after the other, from the top folder of the repository.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.serve.server import running

ADDRESS = "http://127.0.0.1:8000"
PORTS = (8000, 8404, 9101)
LIMIT_S = 300.0
SERVE = str(Path(sys.executable).with_name("serve"))
QUESTION = {"model": "storyteller", "messages": [{"role": "user", "content": "Tell me a story about a fox."}]}


def first_token() -> bool:
    """Whether a stream gives text now."""
    with httpx.stream("POST", f"{ADDRESS}/v1/streams", json=QUESTION, timeout=10) as response:
        return any('"type":"delta"' in line for line in response.iter_lines())


def first_answer() -> bool:
    return httpx.get(ADDRESS, timeout=10).text == "ok"


def seconds_until(config: dict[str, Any], succeeded: Any) -> float:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        began_s = time.monotonic()
        with running([SERVE, "run", str(path)], ports=PORTS, environment={"PYTHONPATH": "."}):
            while time.monotonic() - began_s < LIMIT_S:
                try:
                    if succeeded():
                        return time.monotonic() - began_s
                except httpx.HTTPError:
                    pass
                time.sleep(0.05)
    raise SystemExit(f"the server did not answer within {LIMIT_S:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    rounds: int = parser.parse_args().rounds
    shipped = yaml.safe_load(Path("serve_config.yaml").read_text())
    empty = {
        **shipped,
        "applications": [
            {
                "name": "empty",
                "route_prefix": "/",
                "import_path": "benchmarks.baselines.empty_application:application",
            }
        ],
    }
    for _ in range(rounds):
        plain_s = seconds_until(empty, first_answer)
        ours_s = seconds_until(shipped, first_token)
        print(f"empty application {plain_s:.1f} s, first token {ours_s:.1f} s, ratio {ours_s / plain_s:.2f}")


if __name__ == "__main__":
    main()
