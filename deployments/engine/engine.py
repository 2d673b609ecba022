"""The engine over a transformers model: a step schedules, runs, samples and puts out.

Ownership: one thread. Faults belong to requests: when a step fails, its sequences are tried alone, and those
that fail alone end with `finish` "error" while the others go on. Only when the model no longer does what it
did at the start does the engine call itself unhealthy.
"""

from __future__ import annotations

import logging
from typing import cast

from transformers import PreTrainedModel

from app.schema.tokens import Job, TokenBatch
from deployments.engine.config import EngineConfig
from deployments.engine.model_runner import ModelRunner
from deployments.engine.protocol import EngineStatistics, Outputs
from deployments.engine.sampler import Sample, Sampler
from deployments.engine.scheduler import Chunk, Scheduler
from deployments.engine.sequence import Sequence
from deployments.engine.stream_engine import StreamEngine

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
"""Failed steps in a row after which the engine is unhealthy."""

_FAILED = "The model failed on this request."
_NOT_FINITE = "The model gave numbers that are not finite for this request."


class TransformersEngine(StreamEngine[Sequence]):
    """Implements `protocol.Engine`. Raises `UnsupportedModel` when the model can't be served.

    `end_ids` are the tokens with which the model ends by itself; by default those of its generation
    configuration. `max_model_len_tokens` is the configured length, or the model's own if that is less.
    """

    _scheduler: Scheduler

    def __init__(
        self, model: PreTrainedModel, config: EngineConfig, *, end_ids: frozenset[int] | None = None
    ) -> None:
        self._runner = ModelRunner(model, config)
        super().__init__(
            config,
            Scheduler(config, self._runner.kv_cache),
            vocab_size=self._runner.vocab_size,
            max_model_len_tokens=self._runner.max_model_len_tokens,
            end_ids=model_end_ids(model) if end_ids is None else end_ids,
        )
        self._sampler = Sampler(self._end_ids)
        self._arrivals = 0
        self._failed_steps = 0
        self._failed_in_a_row = 0

    @property
    def has_work(self) -> bool:
        return bool(self._made or self._scheduler.running or self._scheduler.waiting)

    @property
    def healthy(self) -> bool:
        return self._failed_in_a_row < MAX_FAILED_STEPS

    def next_step_s(self) -> float | None:
        return 0.0 if self.has_work else None

    def statistics(self) -> EngineStatistics:
        scheduler, kv_cache = self._scheduler, self._runner.kv_cache
        return EngineStatistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            paused=len(scheduler.paused),
            kv_tokens_used=kv_cache.used_tokens,
            kv_tokens_total=kv_cache.total_tokens,
            steps=self._steps,
            preemptions=scheduler.preemptions,
            generated_tokens=self._generated_tokens,
            failed_steps=self._failed_steps,
        )

    def _make_sequences(self, job: Job, choices: list[int]) -> list[Sequence]:
        sequences = [
            Sequence(job, choice, self.max_model_len_tokens, self._arrivals + choice) for choice in choices
        ]
        self._arrivals += job.n
        for sequence in sequences:
            sequence.siblings = sequences
        return sequences

    # The step.

    def _make_tokens(self, outputs: Outputs) -> None:
        chunks = self._scheduler.schedule()
        for sequence, sample in self._run(chunks):
            self._hand_over(outputs, sequence, sample)

    def _run(self, chunks: list[Chunk]) -> list[tuple[Sequence, Sample | None]]:
        """What each sequence that is through its tokens gets; None for one that failed."""
        if not chunks:
            return []
        try:
            results = self._run_together(chunks)
        except Exception as error:
            logger.warning("a step of %d sequences failed (%r); they are tried alone", len(chunks), error)
            return self._run_alone(chunks)
        self._failed_in_a_row = 0
        return results

    def _run_together(self, chunks: list[Chunk]) -> list[tuple[Sequence, Sample | None]]:
        logits, sequences = self._runner.forward(chunks)
        samples = self._sampler.sample(logits, sequences) if sequences else []
        for chunk in chunks:
            chunk.sequence.computed = chunk.end
        return list(zip(sequences, samples, strict=True))

    def _run_alone(self, chunks: list[Chunk]) -> list[tuple[Sequence, Sample | None]]:
        """Finds out whose fault it was. A step in which nothing works counts against the engine if the model
        is broken.
        """
        results: list[tuple[Sequence, Sample | None]] = []
        failed = 0
        for chunk in chunks:
            try:
                results += self._run_together([chunk])
            except Exception:
                logger.exception("a sequence failed alone; it ends")
                results.append((chunk.sequence, None))
                failed += 1
        if failed < len(chunks):
            self._failed_in_a_row = 0
            return results
        for sequence, _ in results:
            self._scheduler.release(sequence, scrub=True)
        self._failed_steps += 1
        self._failed_in_a_row = 0 if self._runner.works() else self._failed_in_a_row + 1
        return results

    def _hand_over(self, outputs: Outputs, sequence: Sequence, sample: Sample | None) -> None:
        if sample is None or sample.token is None:
            self._end(outputs, sequence, "error", error=_FAILED if sample is None else _NOT_FINITE)
            return
        position = sequence.position
        sequence.append(sample.token)
        self._generated_tokens += 1
        logprobs = None if sample.logprob is None else [sample.logprob]
        finish, stop_token = sequence.finish(self._end_ids)
        if finish is None:
            batch = TokenBatch(sequence.key, sequence.choice, position, [sample.token], logprobs=logprobs)
            outputs.setdefault(sequence.ingress, []).append(batch)
        else:
            self._end(outputs, sequence, finish, [sample.token], stop_token, logprobs)


def model_end_ids(model: PreTrainedModel) -> frozenset[int]:
    """The ids with which a model ends by itself, by its generation configuration, else by its
    configuration.
    """
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset(cast("list[int]", ids) if isinstance(ids, list | tuple) else [cast("int", ids)])
