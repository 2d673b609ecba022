"""Measures the embedded model on the fifty held-out prompts: is the topic named, does the answer end by itself.

`python -m deployments.model.training.evaluate` prints every answer, a table and one line of JSON. Grammar
and sense are for a reader to judge; that is why the answers are printed in full.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deployments.model import MODEL_DIR
from deployments.model.training.prompts import PROMPTS, HeldOut

LIMIT_TOKENS = 300
TEMPERATURES = (0.0, 0.7)
SEED = 1


@dataclass(frozen=True)
class Answer:
    """What the model said to one prompt."""

    prompt: HeldOut
    text: str
    tokens: int
    ended: bool

    @property
    def named(self) -> bool:
        """Whether every word of the topic is in the answer, in either case."""
        text = self.text.casefold()
        return all(word.casefold() in text for word in self.prompt.topic)


def answers(folder: Path, prompts: tuple[HeldOut, ...], temperature: float, seed: int = SEED) -> list[Answer]:
    """Ask all prompts in one batch, each as a conversation of its own. Temperature 0 is greedy."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chats = [[{"role": "user", "content": prompt.asked}] for prompt in prompts]
    inputs: Any = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    )
    torch.manual_seed(seed)
    outputs = model.generate(**inputs, max_new_tokens=LIMIT_TOKENS, **sampling)
    written = outputs[:, inputs["input_ids"].shape[1] :].tolist()
    found = []
    for prompt, ids in zip(prompts, written, strict=True):
        ended = tokenizer.eos_token_id in ids
        kept = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
        found.append(Answer(prompt, tokenizer.decode(kept), len(kept), ended))
    return found


def report(found: list[Answer], temperature: float) -> dict[str, float]:
    """Print the table of one run; returns its summary."""
    print(f"\ntemperature {temperature}\n{'named':>5} {'ended':>5} {'tokens':>6}  prompt")
    for answer in found:
        marks = ["yes" if mark else "NO" for mark in (answer.named, answer.ended)]
        print(f"{marks[0]:>5} {marks[1]:>5} {answer.tokens:>6}  {answer.prompt.asked}\n{'':20}{answer.text}")
    return {
        "temperature": temperature,
        "prompts": len(found),
        "topic_named": sum(answer.named for answer in found),
        "ended_by_itself": sum(answer.ended for answer in found),
        "both": sum(answer.named and answer.ended for answer in found),
        "mean_tokens": round(sum(answer.tokens for answer in found) / len(found), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    options = parser.parse_args()
    torch.set_num_threads(1)
    summaries = [report(answers(options.model, PROMPTS, warmth), warmth) for warmth in TEMPERATURES]
    print(json.dumps({"runs": summaries}))


if __name__ == "__main__":
    main()
