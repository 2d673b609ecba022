"""How many sampled tokens change when the logits are disturbed a little: Gumbel-max against an inverse cumulative distribution.

    python -m benchmarks.sampling_robustness [--vocabulary 32000] [--rows 2000]

Each row has logits of the wanted entropy. Gaussian noise stands for what another batch shape, processor or number format changes.
Both methods draw from the same rows with the same seeds; the inverse cumulative distribution goes in the order of the token ids.
"""

from __future__ import annotations

import argparse

import torch

from deployments.engine.draw import draw, weights_of
from deployments.engine.randomness import place_key
from deployments.engine.waits import waits

_NATS = (1.3, 2.8, 5.0, 9.2)
_NOISES = (1e-2, 1e-3)
_ROWS_AT_ONCE = 100


def logits_of(nats: float, rows: int, vocabulary: int, source: torch.Generator) -> torch.Tensor:
    """Normally distributed logits, scaled until their mean entropy is `nats`: (rows, vocabulary)."""
    plain = torch.randn(rows, vocabulary, generator=source)
    low, high = 0.0, 100.0
    for _ in range(30):
        scale = (low + high) / 2
        logprobs = (plain[:_ROWS_AT_ONCE] * scale).log_softmax(dim=-1)
        entropy = float(-(logprobs.exp() * logprobs).sum(dim=-1).mean())
        low, high = (scale, high) if entropy > nats else (low, scale)
    return plain * low


def gumbel(logits: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(rows,), int64. `logits`: (rows, vocabulary); `keys`: (rows, 1), int64."""
    return draw(weights_of(logits.amax(dim=-1, keepdim=True) - logits), keys)


def inverse(logits: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """As `gumbel`."""
    uniforms = (-waits(keys, torch.zeros(1, 1, dtype=torch.int64))).exp().float()
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    return torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=2000)
    arguments = parser.parse_args()
    source = torch.Generator().manual_seed(0)
    print("| entropy | noise | inverse CDF | Gumbel-max | greedy |\n|--:|--:|--:|--:|--:|")
    for nats in _NATS:
        for noise in _NOISES:
            changed = torch.zeros(3)
            for start in range(0, arguments.rows, _ROWS_AT_ONCE):
                logits = logits_of(nats, _ROWS_AT_ONCE, arguments.vocabulary, source)
                disturbed = logits + torch.randn(logits.shape, generator=source) * noise
                keys = torch.tensor([[place_key(start + row, 0, 0)] for row in range(_ROWS_AT_ONCE)])
                for number, method in enumerate((inverse, gumbel)):
                    changed[number] += (method(logits, keys) != method(disturbed, keys)).sum()
                changed[2] += (logits.argmax(dim=-1) != disturbed.argmax(dim=-1)).sum()
            shares = " | ".join(f"{share:.2f} %" for share in (changed / arguments.rows * 100).tolist())
            print(f"| {nats} nats | {noise:g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
