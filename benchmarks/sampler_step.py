"""What the sampler costs in a step, in CPU milliseconds, by vocabulary, rows and parameters.

    python -m benchmarks.sampler_step [--vocabularies 4096 32000 128000] [--rows 1 32] [--rounds 6]

Logits are random: of a standard deviation of 3, and "flat" of 0.3, where filters reach beyond their candidates. The best of the
rounds counts, because other programs can only make a round slower.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.sampler import Sampler
from deployments.engine.sequence import Sequence

_KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature": {},
    "top_p 0.95, top_k 50": {"top_p": 0.95, "top_k": 50},
    "top_p 0.95": {"top_p": 0.95},
    "min_p 0.05": {"min_p": 0.05},
    "greedy, logprobs 5": {"temperature": 0.0, "logprobs": 5},
    "greedy, grammar": {"temperature": 0.0},
}
_CONSTRAINED = ("greedy, grammar",)


def measure(logits: torch.Tensor, sampling: dict[str, Any], rounds: int, *, constrained: bool) -> float:
    """CPU milliseconds of one step. `logits`: (rows, vocabulary), float32. `constrained`: a grammar bars every second token."""
    sequences = []
    for seed in range(len(logits)):
        job = Job(ingress="", key=0, prompt=[0], sampling=SamplingParams(max_tokens=9, seed=seed, **sampling))
        sequences.append(Sequence(job, 0, 64, 0))
    masks = [b"\x55" * (-(-logits.shape[1] // 32) * 4)] * len(logits) if constrained else []
    sampler = Sampler(frozenset())
    best_s = float("inf")
    for _ in range(rounds):
        given = logits.clone()
        begin_s = time.process_time()
        sampler.sample(given, sequences, masks)
        best_s = min(best_s, time.process_time() - begin_s)
    return best_s * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[4096, 32_000, 128_000])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| vocabulary | rows | parameters | ms | ms, flat |\n|--:|--:|---|--:|--:|")
    for vocabulary in arguments.vocabularies:
        for rows in arguments.rows:
            plain = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))
            for name, sampling in _KINDS.items():
                constrained = name in _CONSTRAINED
                costs = [
                    measure(plain * scale, sampling, arguments.rounds, constrained=constrained)
                    for scale in (3.0, 0.3)
                ]
                print(
                    f"| {vocabulary} | {rows} | {name} | {costs[0]:.2f} | {costs[1]:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
