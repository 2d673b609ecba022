"""The benchmarks. Each measures servers and parts of them on this machine, and nothing else in the project imports them.

- `serve`: delivery side by side with other servers, `streaming-inference bench serve` (the command is in `cli`).
- `baselines`: the other servers.
- Each other module is a program that answers one question: `python -m benchmarks.cancel --help`.
"""

from pathlib import Path

# The folder that contains the packages: the PYTHONPATH of every process that a benchmark starts.
ROOT = Path(__file__).resolve().parent.parent
