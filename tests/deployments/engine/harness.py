"""Tiny random models, and a producer that runs an engine to the end and checks the order of what it makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from app.schema.sampling import SamplingParams
from app.schema.tokens import EngineFinish, Job, TokenLogprob
from deployments.engine.config import EngineConfig
from deployments.engine.engine import TransformersEngine
from deployments.engine.protocol import Engine, Outputs
from deployments.engine.scheduler import Scheduler
from deployments.engine.sequence import Sequence

VOCAB = 151
CONFIG = EngineConfig(
    max_model_len_tokens=256,
    max_running_sequences=8,
    max_waiting_sequences=64,
    kv_cache_tokens=4096,
    prefill_chunk_tokens=16,
)
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": 0,
}
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=9)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **{**SHAPE, "num_hidden_layers": 3}, head_dim=16, sliding_window=9, layer_types=LAYER_TYPES
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=1024, initializer_range=0.4,
            tie_word_embeddings=False, eos_token_id=None, bos_token_id=None, pad_token_id=0,
        )
    ),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SHAPE)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=16, sliding_window=9, attn_logit_softcapping=2.0)
    ),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SHAPE, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24)
    ),
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(
            **{**SHAPE, "num_hidden_layers": 3}, head_dim=16, sliding_window=9, layer_types=LAYER_TYPES,
            num_local_experts=4, num_experts_per_tok=2, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        )
    ),
}  # fmt: skip


def make_model(name: str = "llama") -> PreTrainedModel:
    """The same random model at every call."""
    torch.set_num_threads(1)
    torch.manual_seed(7)
    model = MODELS[name]()
    model.train(False)
    return model


def make_engine(
    config: EngineConfig = CONFIG,
    end_ids: frozenset[int] = frozenset(),
    clock: Callable[[], float] = time.monotonic,
) -> TransformersEngine:
    return TransformersEngine(make_model(), config, end_ids=end_ids, clock=clock)


def greedy(max_tokens: int = 12, **changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **changes)


PROMPT = [5, 17, 3, 99, 42, 8, 120]
REQUESTS: dict[str, SamplingParams] = {
    "greedy": greedy(16, logprobs=2),
    "seeded": SamplingParams(max_tokens=16, seed=77, temperature=1.4, logprobs=0),
    "filtered": SamplingParams(max_tokens=16, seed=5, temperature=1.5, top_p=0.9, top_k=40, min_p=0.01),
    "penalties": SamplingParams(
        max_tokens=16, seed=1, repetition_penalty=1.5, presence_penalty=0.8, frequency_penalty=0.6, logit_bias={7: 4.0}
    ),
    "min_tokens": SamplingParams(max_tokens=16, seed=9, min_tokens=9, stop_token_ids=tuple(range(60)), temperature=1.5),
}  # fmt: skip


def make_job(key: int, prompt: list[int], sampling: SamplingParams, **changes: Any) -> Job:
    return Job(ingress=f"i{key % 2}", key=key, prompt=prompt, sampling=sampling, **changes)


@dataclass
class Answer:
    """What came for one choice."""

    start: int | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: EngineFinish | None = None
    stop_token: int | None = None
    error: str | None = None


Answers = dict[tuple[int, int], Answer]


def take(answers: Answers, outputs: Outputs) -> None:
    """Adds a step's outputs; no gap, no repeat and nothing after the end."""
    for ingress, batches in outputs.items():
        assert batches
        for batch in batches:
            answer = answers.setdefault((batch.key, batch.choice), Answer())
            assert ingress == f"i{batch.key % 2}"
            assert answer.finish is None
            if answer.start is None:
                answer.start = batch.position
            assert batch.position == answer.start + len(answer.tokens)
            answer.tokens += batch.token_ids
            answer.logprobs += batch.logprobs or []
            answer.finish, answer.stop_token, answer.error = batch.finish, batch.stop_token, batch.error


def finish_all(engine: Engine, answers: Answers | None = None, steps: int = 3000) -> Answers:
    """Steps until the engine has no work."""
    answers = {} if answers is None else answers
    for _ in range(steps):
        if not engine.has_work:
            return answers
        take(answers, engine.step())
    raise AssertionError(f"still working after {steps} steps: {engine.statistics()}")


def answer_all(engine: Engine, jobs: Iterable[Job]) -> Answers:
    """Adds the jobs and runs the engine to the end of them all."""
    for job in jobs:
        engine.add(job)
    return finish_all(engine)


def answer_one(engine: Engine, job: Job) -> Answer:
    (answer,) = answer_all(engine, [job]).values()
    return answer


def preempt(scheduler: Scheduler, sequence: Sequence) -> None:
    """Takes the memory of a running sequence away, as the scheduler does with the youngest when the memory is full."""
    scheduler.running.remove(sequence)
    scheduler.release(sequence)
    scheduler.add(sequence)
