"""Trains the embedded model from nothing: corpus, tokenizer, weights, files.

`python -m deployments.model.training.train` writes the folder `MODEL_DIR`.

Two cycles of 1,024 tokens a step on one thread: 3,600 steps in which the model learns the stories and to copy their topic, and
1,600 with more small questions. They took 1,439 s of processor time on a Xeon at 2.5 GHz. The result has 1,496,480
parameters, 3.0 MB as bfloat16. Of the fifty held-out prompts 46 are answered with their topic, greedily and at
temperature 0.7, and all answers end by themselves (`python -m deployments.model.training.evaluate`).
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from deployments.model import MODEL_DIR
from deployments.model.training.corpus import QUESTIONS, conversations
from deployments.model.training.packing import IGNORED, Packer
from deployments.model.training.tokenizer import (
    BOS,
    CONTEXT_TOKENS,
    EOS,
    PAD,
    VOCABULARY,
    save_tokenizer,
    special_id,
    train_tokenizer,
)

SEED = 7
TOKENIZER_DOCUMENTS = 12_000
STEP_TOKENS = 1024
WARM_UP_STEPS = 100
LAST_RATE = 1e-4


@dataclass(frozen=True)
class Cycle:
    """A learning rate that rises and falls once, on documents of its own. One of `row_tokens` is drawn per step."""

    steps: int
    peak_rate: float
    row_tokens: tuple[int, ...]
    questions: float = QUESTIONS


# The second cycle has rows as long as the context, so that late positions are trained too, and more small questions: facts are
# learnt one by one, stories all at once.
CYCLES = (
    Cycle(3600, 4e-3, (256, 256, 256, 256, 256, 256, 256, 512, 512, 1024)),
    Cycle(1600, 2.5e-3, (256, 256, 256, 256, 256, 512, 512, 512, 1024, 2048), 0.5),
)


def model_config(tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=160,
        intermediate_size=416,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=special_id(tokenizer, BOS),
        eos_token_id=special_id(tokenizer, EOS),
        pad_token_id=special_id(tokenizer, PAD),
    )


def learning_rate(step: int, cycle: Cycle) -> float:
    """Linear warm-up, then a cosine down to `LAST_RATE`."""
    if step < WARM_UP_STEPS:
        return cycle.peak_rate * (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, cycle.steps - WARM_UP_STEPS)
    return LAST_RATE + (cycle.peak_rate - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy where there is a label. The head runs on those positions alone: it is a fifth of the work."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    wanted = targets != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[:, :-1][wanted]), targets[wanted])


def run_cycle(model: LlamaForCausalLM, packer: Packer, cycle: Cycle) -> Iterator[float]:
    """Train for one cycle with a fresh optimizer; yields the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    row_rng = Random(SEED)
    for step in range(cycle.steps):
        length = row_rng.choice(cycle.row_tokens)
        ids, labels = packer.batch(max(1, STEP_TOKENS // length), length)
        loss = loss_of(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, cycle)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def train_model(model: LlamaForCausalLM, tokenizer: Tokenizer, checkpoint: Path, first: int) -> None:
    """Run the cycles from `first` on. The exact weights after each cycle are kept in `checkpoint`."""
    for number in range(first, len(CYCLES)):
        packer = Packer(conversations(SEED + 1 + number, CYCLES[number].questions), tokenizer, SEED)
        started, smooth = time.perf_counter(), 0.0
        for step, loss in enumerate(run_cycle(model, packer, CYCLES[number])):
            smooth = loss if not step else 0.98 * smooth + 0.02 * loss
            if step % 100 == 99:
                seconds = time.perf_counter() - started
                print(f"cycle {number} step {step + 1} loss {smooth:.4f} {seconds:.0f} s", flush=True)
            if step % 200 == 199:
                model.save_pretrained(checkpoint / f"cycle-{number}")
        model.save_pretrained(checkpoint / f"cycle-{number}")


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Config, generation config and the weights rounded to bfloat16."""
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.bfloat16().save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=MODEL_DIR)
    parser.add_argument("--checkpoint", type=Path, default=Path("/tmp/default_model"))
    parser.add_argument("--first-cycle", type=int, default=0, help="go on after the cycle before this one")
    options = parser.parse_args()
    started, processor = time.perf_counter(), time.process_time()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    options.output.mkdir(parents=True, exist_ok=True)
    texts = (document.text for document in islice(conversations(SEED), TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(texts)
    save_tokenizer(tokenizer, options.output)
    model = LlamaForCausalLM(model_config(tokenizer))
    if options.first_cycle:
        model = LlamaForCausalLM.from_pretrained(options.checkpoint / f"cycle-{options.first_cycle - 1}")
    train_model(model, tokenizer, options.checkpoint, options.first_cycle)
    save_model(model, options.output)
    seconds, busy = time.perf_counter() - started, time.process_time() - processor
    print(
        f"trained {model.num_parameters():,} parameters in {seconds:.0f} s, {busy:.0f} s of them on the processor"
    )


if __name__ == "__main__":
    main()
