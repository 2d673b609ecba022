"""Tokens per second of the engine against a hand-written DynamicCache loop of the same random model, side by side.

    python -m benchmarks.engine_throughput [--shape storyteller] [--batches 1 8 32] [--prompt 64] [--new 64] [--rounds 3] [--cpu]

The loop is the best case of plain transformers: all prompts have one length, are prefilled together and end together; greedy
tokens are taken with argmax. The engine gets the same prompts as separate requests. The rounds alternate; the best of each is
compared, because other programs can only make a run slower. `free` is the engine with `batch_invariant: false`. `--shape smollm2`
has the layers of SmolLM2-135M. `--cpu` counts CPU seconds instead of seconds, the better
figure on a machine that runs other programs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.config import EngineConfig
from deployments.engine.engine import TransformersEngine

CLOCK: Callable[[], float] = time.perf_counter


SHAPES: dict[str, dict[str, Any]] = {
    "storyteller": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "smollm2": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}


def make_model(shape: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=4096,
        initializer_range=0.1,
        eos_token_id=None,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.train(False)
    return model


@torch.inference_mode()
def run_loop(model: Any, prompts: list[list[int]], new: int) -> tuple[float, list[list[int]]]:
    """Seconds and tokens of the hand-written loop."""
    start = CLOCK()
    cache = DynamicCache(config=model.config)
    ids = torch.tensor(prompts)
    tokens = []
    for _ in range(new):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        ids = logits.argmax(dim=-1, keepdim=True)
        tokens.append(ids[:, 0].tolist())
    return CLOCK() - start, [list(row) for row in zip(*tokens, strict=True)]


def run_engine(
    engine: TransformersEngine, prompts: list[list[int]], sampling: SamplingParams
) -> tuple[float, list[list[int]]]:
    """Seconds and tokens of the engine."""
    start = CLOCK()
    tokens: list[list[int]] = [[] for _ in prompts]
    for key, prompt in enumerate(prompts):
        engine.add(Job(ingress="", key=key, prompt=prompt, sampling=sampling))
    while engine.has_work:
        for batch in engine.step().get("", []):
            tokens[batch.key] += batch.token_ids
    return CLOCK() - start, tokens


def compare(shape: str, batch: int, prompt: int, new: int, rounds: int) -> str:
    """One line of the table."""
    source = torch.Generator().manual_seed(batch)
    prompts = cast("list[list[int]]", torch.randint(0, 4096, (batch, prompt), generator=source).tolist())
    plain = make_model(shape)
    config = EngineConfig(max_running_sequences=max(batch, 1), max_waiting_sequences=1)
    engine = TransformersEngine(make_model(shape), config, end_ids=frozenset())
    free = msgspec.structs.replace(config, batch_invariant=False)
    greedy = SamplingParams(max_tokens=new, temperature=0.0)
    runs = {
        "free": (TransformersEngine(make_model(shape), free, end_ids=frozenset()), greedy),
        "greedy": (engine, greedy),
        "sampled": (engine, SamplingParams(max_tokens=new, temperature=0.8, top_p=0.95, seed=1)),
    }
    best = dict.fromkeys(["loop", *runs], float("inf"))
    for _ in range(rounds + 1):
        seconds, wanted = run_loop(plain, prompts, new)
        best["loop"] = min(best["loop"], seconds)
        for name, run in runs.items():
            seconds, tokens = run_engine(run[0], prompts, run[1])
            best[name] = min(best[name], seconds)
            if name == "greedy":
                same = sum(ours == theirs for ours, theirs in zip(tokens, wanted, strict=True))
    rates = {name: batch * new / seconds for name, seconds in best.items()}
    columns = " | ".join(f"{rates[name]:.0f} | {rates[name] / rates['loop']:.2f}" for name in runs)
    return f"| {batch} | {rates['loop']:.0f} | {columns} | {same} of {batch} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--shape", choices=SHAPES, default="storyteller")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true")
    arguments = parser.parse_args()
    if arguments.cpu:
        global CLOCK
        CLOCK = time.process_time
    torch.set_num_threads(arguments.threads)
    print(
        f"prompt {arguments.prompt}, new {arguments.new}, {arguments.threads} thread(s), best of {arguments.rounds}"
    )
    print(
        "| batch | loop tokens/s | free | ratio | engine, greedy | ratio | engine, top_p | ratio | same text |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for batch in arguments.batches:
        print(compare(arguments.shape, batch, arguments.prompt, arguments.new, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
