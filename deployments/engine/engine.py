"""The engine over a transformers model: `step` is schedule, run, sample, hand over.

Ownership: one thread. Faults belong to requests: when a step fails, its sequences are tried alone, and those
that fail alone end with `finish` "error" while the others go on. Only when the model no longer does what it
did at the start does the engine call itself unhealthy.
"""

from __future__ import annotations

import logging
from typing import cast

from transformers import PreTrainedModel

from app.errors import InvalidRequest, Overloaded
from app.schema.tokens import EngineFinish, Job, Steering, TokenBatch, TokenLogprob
from deployments.engine.config import EngineConfig
from deployments.engine.jobs import SteeringRecord, check_job, open_choices, steered_batch
from deployments.engine.model_runner import ModelRunner
from deployments.engine.protocol import EngineStatistics, Outputs
from deployments.engine.sampler import Sample, Sampler
from deployments.engine.scheduler import Chunk, Scheduler
from deployments.engine.sequence import Sequence

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 3
"""Failed steps in a row after which the engine is unhealthy."""

_FAILED = "The model failed on this request."
_NO_SUCH_TOKEN = "What was put in has a token that the model does not have."
_NOT_FINITE = "The model gave numbers that are not finite for this request."


class TransformersEngine:
    """Implements `protocol.Engine`. Raises `UnsupportedModel` when the model can't be served.

    `end_ids` are the tokens with which the model ends by itself; by default those of its generation
    configuration.
    """

    def __init__(
        self, model: PreTrainedModel, config: EngineConfig, *, end_ids: frozenset[int] | None = None
    ) -> None:
        self._config = config
        self._runner = ModelRunner(model, config)
        self._end_ids = model_end_ids(model) if end_ids is None else end_ids
        self._scheduler = Scheduler(config, self._runner.kv_cache)
        self._sampler = Sampler(self._end_ids)
        self._streams: dict[tuple[str, int], list[Sequence]] = {}
        self._steerings = SteeringRecord()
        # What was made between two steps, put out with the next one.
        self._made: Outputs = {}
        self._arrivals = 0
        self._steps = 0
        self._generated_tokens = 0
        self._failed_steps = 0
        self._failed_in_a_row = 0

    @property
    def vocab_size(self) -> int:
        return self._runner.vocab_size

    @property
    def max_model_len_tokens(self) -> int:
        """The configured length, or the model's own if that is less."""
        return self._runner.max_model_len_tokens

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

    # Streams come and go.

    def add(self, job: Job) -> None:
        check_job(job, self.vocab_size, self.max_model_len_tokens)
        stream = (job.ingress, job.key)
        if stream in self._streams:
            raise InvalidRequest("A stream of this name is under way.")
        choices = open_choices(job)
        if len(self._scheduler) + len(choices) > self._config.max_sequences:
            raise Overloaded("The model is busy.", retry_after_s=1)
        sequences = [Sequence(job, choice, self._arrivals + choice) for choice in choices]
        self._arrivals += job.n
        going_on = [sequence for sequence in sequences if not self._ends_at_once(sequence)]
        for sequence in going_on:
            sequence.siblings = going_on
            self._scheduler.add(sequence)
        if going_on:
            self._streams[stream] = list(going_on)

    def abort(self, ingress: str, key: int) -> None:
        self._steerings.forget((ingress, key))
        for sequence in self._streams.pop((ingress, key), ()):
            self._scheduler.remove(sequence)
        left = [batch for batch in self._made.pop(ingress, ()) if batch.key != key]
        if left:
            self._made[ingress] = left

    def pause(self, ingress: str, key: int) -> None:
        for sequence in self._streams.get((ingress, key), ()):
            self._scheduler.pause(sequence)

    def resume(self, ingress: str, key: int) -> None:
        for sequence in self._streams.get((ingress, key), ()):
            self._scheduler.resume(sequence)

    def steer(self, ingress: str, key: int, steering: Steering) -> None:
        stream = self._streams.get((ingress, key))
        if stream is None or not self._steerings.is_new((ingress, key), steering):
            return
        known = all(0 <= token < self.vocab_size for token in steering.token_ids)
        for sequence in list(stream):
            if known:
                self._steer(sequence, steering)
            else:
                self._end(self._made, sequence, "error", error=_NO_SUCH_TOKEN)

    def fail_all(self, message: str) -> Outputs:
        outputs, self._made = self._made, {}
        for sequence in list(self._scheduler):
            self._end(outputs, sequence, "error", error=message)
        return outputs

    # The step.

    def step(self) -> Outputs:
        outputs, self._made = self._made, {}
        chunks = self._scheduler.schedule()
        for sequence, sample in self._run(chunks):
            self._hand_over(outputs, sequence, sample)
        self._steps += 1
        return outputs

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
        finish, stop_token = sequence.finish(self._end_ids, self.max_model_len_tokens)
        if finish is None:
            batch = TokenBatch(sequence.key, sequence.choice, position, [sample.token], logprobs=logprobs)
            outputs.setdefault(sequence.ingress, []).append(batch)
        else:
            self._end(outputs, sequence, finish, [sample.token], stop_token, logprobs)

    def _steer(self, sequence: Sequence, steering: Steering) -> None:
        """Puts tokens behind those that the sequence has. Their keys and values are computed as a prompt's are."""
        position = sequence.position
        token_ids = steering.token_ids[: sequence.room(self.max_model_len_tokens)]
        sequence.steer(token_ids)
        ends = sequence.room(self.max_model_len_tokens) <= 0
        wants_logprobs = sequence.sampling.logprobs is not None
        batch = steered_batch(
            sequence.key, sequence.choice, position, steering, token_ids, wants_logprobs, ends
        )
        self._made.setdefault(sequence.ingress, []).append(batch)
        if ends:
            self._forget(sequence)

    # Endings.

    def _ends_at_once(self, sequence: Sequence) -> bool:
        """Whether a job that was handed over has its ending already; then that is put out with the next
        step.
        """
        finish, stop_token = sequence.finish(self._end_ids, self.max_model_len_tokens)
        if finish is not None:
            batch = TokenBatch(
                sequence.key, sequence.choice, sequence.position, [], finish=finish, stop_token=stop_token
            )
            self._made.setdefault(sequence.ingress, []).append(batch)
        return finish is not None

    def _end(
        self,
        outputs: Outputs,
        sequence: Sequence,
        finish: EngineFinish,
        token_ids: list[int] | None = None,
        stop_token: int | None = None,
        logprobs: list[TokenLogprob] | None = None,
        error: str | None = None,
    ) -> None:
        """Puts out the last batch of a sequence, frees its memory and forgets it."""
        new = token_ids or []
        position = sequence.position - len(new)
        batch = TokenBatch(sequence.key, sequence.choice, position, new, finish, stop_token, logprobs, error)
        outputs.setdefault(sequence.ingress, []).append(batch)
        self._forget(sequence, scrub=finish == "error")

    def _forget(self, sequence: Sequence, scrub: bool = False) -> None:
        self._scheduler.remove(sequence, scrub=scrub)
        stream = (sequence.ingress, sequence.key)
        self._streams[stream].remove(sequence)
        if not self._streams[stream]:
            del self._streams[stream]
            self._steerings.forget(stream)


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
