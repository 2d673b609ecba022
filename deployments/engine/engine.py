"""The engine over a transformers model: a step schedules, runs, samples and puts out.

Ownership: one thread. Faults belong to requests: when a step fails, its sequences are tried in halves, and those
that fail alone end with `finish` "error" while the others go on. Only when the model no longer does what it
did at the start does the engine call itself unhealthy.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import cast

import torch
from transformers import PreTrainedModel

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job, TokenBatch
from deployments.engine.config import EngineConfig
from deployments.engine.divergences import DIVERGED, Divergences
from deployments.engine.grammars import Grammars
from deployments.engine.handed_over import HandedOverToken, limit_checks
from deployments.engine.job_choice import longest_wait_s
from deployments.engine.masks import NO_MASKS, MaskFiller, Masks
from deployments.engine.model_runner import ModelRunner
from deployments.engine.prefill_budget import PrefillBudget
from deployments.engine.protocol import EngineStatistics, Outputs
from deployments.engine.sampler import Sample, Sampler
from deployments.engine.scheduler import Chunk, Scheduler
from deployments.engine.sequence import Sequence
from deployments.engine.stream_engine import StreamEngine

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
"""Failed steps in a row after which the engine is unhealthy."""

SEARCH_S = 0.25
"""The time that one step gives to the search for the sequences that make it fail, besides its own; at least one try."""

CHECKED_AT_ONCE = 32
"""Handed-over tokens that go through the sampler together: it needs some times the memory of their logits."""

Outcome = Sample | str
"""What a sequence gets in a step: a sample, or the error with which it ends."""

_FAILED = "The model failed on this request."
_GRAMMAR_BROKEN = "The answer can't go on within its grammar."
_NOT_FINITE = "The model gave numbers that are not finite for this request."


class TransformersEngine(StreamEngine[Sequence]):
    """Implements `protocol.Engine`. Raises `UnsupportedModel` when the model can't be served.

    `end_ids` are the tokens with which the model ends by itself; by default those of its generation
    configuration. `tokenizer_json` is the text of the model's tokenizer file, which structured output needs;
    without it there is none. `max_model_len_tokens` is the model's own length, or what the configuration leaves of it.
    """

    _scheduler: Scheduler

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        *,
        end_ids: frozenset[int] | None = None,
        tokenizer_json: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = ModelRunner(model, config)
        self._runner.progress = lambda: self.progress()
        super().__init__(
            config,
            Scheduler(config, self._runner.kv_cache, clock),
            vocab_size=self._runner.vocab_size,
            max_model_len_tokens=self._runner.max_model_len_tokens,
            end_ids=model_end_ids(model) if end_ids is None else end_ids,
        )
        self._sampler = Sampler(self._end_ids)
        self._grammars = Grammars.of_tokenizer(tokenizer_json, self.vocab_size, self._end_ids)
        self._mask_filler = MaskFiller()
        self._divergences = Divergences(config.on_divergence, str(model.dtype).removeprefix("torch."))
        self._clock = clock
        self._prefill_budget = PrefillBudget(config.prefill_chunk_ms / 1000, config.prefill_chunk_tokens)
        self._prefill_budget.record(0, 1, self._shortest_step_s())
        self._suspects: list[list[Sequence]] = []
        self._has_worked = False
        self._failed_alone = 0
        self._arrivals = 0
        self._failed_steps = 0
        self._failed_in_a_row = 0

    @property
    def has_work(self) -> bool:
        return bool(self._made or self._scheduler.running or self._scheduler.waiting)

    @property
    def healthy(self) -> bool:
        return self._failed_in_a_row < MAX_FAILED_STEPS

    @property
    def deterministic(self) -> bool:
        return self._runner.deterministic

    def next_step_s(self) -> float | None:
        return 0.0 if self.has_work else None

    def statistics(self) -> EngineStatistics:
        scheduler, kv_cache = self._scheduler, self._runner.kv_cache
        return EngineStatistics(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            paused=len(scheduler.paused),
            queue_s=longest_wait_s(scheduler.waiting, self._clock()),
            kv_tokens_used=kv_cache.used_tokens,
            kv_tokens_total=kv_cache.total_tokens,
            steps=self._steps,
            preemptions=scheduler.preemptions,
            generated_tokens=self._generated_tokens,
            failed_steps=self._failed_steps,
            divergences=self._divergences.count,
        )

    def prepare(self, job: Job) -> None:
        if self._grammars is None:
            super().prepare(job)
        elif job.sampling.constraint is not None:
            self._grammars.prepare(job.sampling.constraint)

    def _make_sequences(self, job: Job, choices: list[int]) -> list[Sequence]:
        sequences = [
            Sequence(job, choice, self.max_model_len_tokens, self._arrivals + choice) for choice in choices
        ]
        self._arrivals += job.n
        constraint = job.sampling.constraint
        for sequence in sequences:
            sequence.siblings = sequences
            if constraint is not None and self._grammars is not None:
                sequence.matcher = self._grammars.matcher(constraint)
        return sequences

    def _shortest_step_s(self) -> float:
        """The time of a forward pass over one token. The second of two counts, because the first warms up."""
        job = Job(ingress="", key=0, prompt=[0], sampling=SamplingParams(max_tokens=1))
        sequence = Sequence(job, 0, self.max_model_len_tokens, 0)
        sequence.extent = self._runner.kv_cache.allocate(1)
        assert sequence.extent is not None
        began_s = 0.0
        for _ in range(2):
            began_s = self._clock()
            self._runner.forward([Chunk(sequence, 0, 1)])
        duration_s = self._clock() - began_s
        self._runner.kv_cache.free(sequence.extent)
        return duration_s

    # The step.

    def _make_tokens(self, outputs: Outputs) -> None:
        self._scheduler.chunk_tokens = self._prefill_budget.tokens
        chunks = limit_checks(self._scheduler.schedule())
        for sequence, outcome in self._run(chunks):
            self._hand_over(outputs, sequence, outcome)

    def _run(self, chunks: list[Chunk]) -> list[tuple[Sequence, Outcome]]:
        """What each sequence gets that is through its tokens or ends with an error.

        When a group of sequences fails, its halves are tried, and so on down to the sequences whose fault it is. What is not
        tried within `SEARCH_S` is left to the next steps, which begin with those that are not suspected.
        """
        if not self._suspects:
            self._has_worked = False
            self._failed_alone = 0
        groups = self._groups(chunks)
        results: list[tuple[Sequence, Outcome]] = []
        failed: list[Sequence] = []
        search_ends_s: float | None = None
        while groups and (search_ends_s is None or self._clock() < search_ends_s):
            group = groups.popleft()
            error: Exception | None = None
            try:
                results += self._run_together(group)
            except Exception as caught:
                error = caught
                self.progress()
            if search_ends_s is None:
                search_ends_s = self._clock() + SEARCH_S
            if error is None:
                self._has_worked = True
                self._failed_in_a_row = 0
            elif len(group) > 1:
                logger.warning("a step of %d sequences failed (%r); its halves are tried", len(group), error)
                half = len(group) // 2
                groups.extendleft((group[half:], group[:half]))
            else:
                logger.error("a sequence failed alone; it ends", exc_info=error)
                failed.append(group[0].sequence)
                self._failed_alone += 1
                nothing_works = not self._has_worked and (self._failed_alone > 1 or not groups)
                if nothing_works and self._is_broken(failed):
                    failed += [chunk.sequence for group in groups for chunk in group]
                    groups.clear()
        self._suspects = [[chunk.sequence for chunk in group] for group in groups]
        return results + [(sequence, _FAILED) for sequence in failed]

    def _groups(self, chunks: list[Chunk]) -> deque[list[Chunk]]:
        """The chunks that are computed together: those of the sequences that are not suspected, then each group of suspects."""
        if not self._suspects:
            return deque([chunks] if chunks else [])
        left = {chunk.sequence: chunk for chunk in chunks}
        suspected = [
            [left.pop(sequence) for sequence in group if sequence in left] for group in self._suspects
        ]
        return deque(group for group in ([*left.values()], *suspected) if group)

    def _run_together(self, chunks: list[Chunk]) -> list[tuple[Sequence, Outcome]]:
        began_s = self._clock()
        filling = self._mask_filler.begin(chunks)
        logits, sequences, handed_over = self._runner.forward(chunks)
        self.progress()
        masks = NO_MASKS if filling is None else filling.result()
        own = [masks.of.get((sequence, sequence.position)) for sequence in sequences] if filling else []
        samples = self._sampler.sample(logits[: len(sequences)], sequences, own) if sequences else []
        self.progress()
        recomputed = self._recompute(logits[len(sequences) :], handed_over, masks)
        for chunk in chunks:
            chunk.sequence.computed = chunk.end
        for sequence, sample in zip(sequences, samples, strict=True):
            # Each token is attended to by the next ones, so a number that is not finite would have come through to the logits
            # (where a window hides it from them, the memory does not rely on this).
            assert sequence.extent is not None
            sequence.extent.is_finite = sample.token is not None
        prompt_tokens = sum(chunk.count for chunk in chunks if chunk.count > 1)
        decode_tokens = sum(chunk.count == 1 for chunk in chunks)
        self._prefill_budget.record(prompt_tokens, decode_tokens, self._clock() - began_s)
        ended: dict[Sequence, Outcome] = dict.fromkeys(masks.broken, _GRAMMAR_BROKEN)
        for sequence in self._diverged(handed_over, recomputed):
            ended.setdefault(sequence, DIVERGED)
        outcomes = list(ended.items())
        outcomes += [pair for pair in zip(sequences, samples, strict=True) if pair[0] not in ended]
        return outcomes

    def _recompute(self, logits: torch.Tensor, tokens: list[HandedOverToken], masks: Masks) -> list[Sample]:
        """What this engine chooses in place of `tokens`. `logits`: (len(tokens), vocab_size)."""
        samples: list[Sample] = []
        for begin in range(0, len(tokens), CHECKED_AT_ONCE):
            part = slice(begin, begin + CHECKED_AT_ONCE)
            own = [masks.of.get((token.sequence, token.position)) for token in tokens[part]]
            samples += self._sampler.sample(logits[part], tokens[part], own)
            self.progress()
        return samples

    def _diverged(self, tokens: list[HandedOverToken], recomputed: list[Sample]) -> set[Sequence]:
        """Takes down that `tokens` were checked, so that none is counted again after a preemption. Returns the sequences that are
        to end because of it.
        """
        ended: set[Sequence] = set()
        for token, sample in zip(tokens, recomputed, strict=True):
            sequence = token.sequence
            sequence.checked = token.position + 1
            # Numbers that are not finite are no choice; the next sample shows them.
            if sample.token is not None and self._divergences.compare(
                sequence, token.position, token.sent, sample.token
            ):
                ended.add(sequence)
        return ended

    def _is_broken(self, failed: list[Sequence]) -> bool:
        """Asked when nothing has worked since a step failed, and `failed` have failed alone: whether it is the model's fault.

        Then it counts against the engine. Their memory is freed for the question.
        """
        self._failed_steps += 1
        try:
            for sequence in failed:
                self._scheduler.release(sequence)
            self._has_worked = self._runner.works()
        except Exception:
            logger.exception("the engine can't find out whether the model works")
        self._failed_in_a_row = 0 if self._has_worked else self._failed_in_a_row + 1
        return not self._has_worked

    def _hand_over(self, outputs: Outputs, sequence: Sequence, outcome: Outcome) -> None:
        if isinstance(outcome, str) or outcome.token is None:
            self._end(outputs, sequence, "error", error=outcome if isinstance(outcome, str) else _NOT_FINITE)
            return
        position = sequence.position
        sequence.append(outcome.token)
        self._generated_tokens += 1
        logprobs = None if outcome.logprob is None else [outcome.logprob]
        finish, stop_token = sequence.finish(self._end_ids)
        if finish is None:
            batch = TokenBatch(sequence.key, sequence.choice, position, [outcome.token], logprobs=logprobs)
            outputs.setdefault(sequence.ingress, []).append(batch)
        else:
            self._end(outputs, sequence, finish, [outcome.token], stop_token, logprobs)


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
