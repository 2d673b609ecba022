"""What every engine does with its streams, however it makes tokens: add, abort, end, pause, resume, steer.

A subclass brings a scheduler, makes the sequences and the tokens. This file imports no torch.

Every choice gets one ending, whatever raises: a choice leaves `_streams` when its last batch goes to the outputs, and before
its memory is freed. What a failed step or command had made stays in `_made`, and `fail_all` ends the choices that are left in
`_streams`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from app.errors import InvalidRequest
from app.schema.tokens import Edit, EngineFinish, Job, Steering, TokenBatch, TokenLogprob, steered_logprobs
from deployments.engine.config import EngineConfig
from deployments.engine.job_choice import JobChoice
from deployments.engine.jobs import check_job, check_places, open_choices
from deployments.engine.protocol import Outputs

S = TypeVar("S", bound=JobChoice)
S_contra = TypeVar("S_contra", bound=JobChoice, contravariant=True)


class SequenceScheduler(Protocol[S_contra]):
    """Holds the unfinished sequences of an engine and decides which of them take part in a step."""

    def __len__(self) -> int:
        """The sequences that it holds, paused ones included."""
        ...

    def add(self, sequence: S_contra) -> None: ...

    def remove(self, sequence: S_contra) -> None:
        """Frees the place and the memory of a sequence."""
        ...

    def clear(self) -> None:
        """Forgets all sequences and frees their memory. Does nothing that can fail: it leaves the device alone."""
        ...

    def pause(self, sequence: S_contra) -> None:
        """Leaves a sequence out until `resume`. Does nothing for one that is paused."""
        ...

    def resume(self, sequence: S_contra) -> None:
        """Undoes `pause`. Does nothing for a sequence that is not paused."""
        ...


@dataclass(slots=True)
class Stream(Generic[S]):
    """The unfinished sequences of one job, and the ids of the steerings that it has had."""

    sequences: list[S]
    steering_ids: set[str] = field(default_factory=set)


class StreamEngine(Generic[S]):
    """Implements the part of `protocol.Engine` that does not depend on how tokens are made.

    `_made` holds the batches that `step` has not returned yet: those made between two steps, and those of a step that failed.
    """

    def __init__(
        self,
        config: EngineConfig,
        scheduler: SequenceScheduler[S],
        *,
        vocab_size: int,
        max_model_len_tokens: int,
        end_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.progress: Callable[[], None] = lambda: None
        self.vocab_size = vocab_size
        self.max_model_len_tokens = max_model_len_tokens
        self.max_sequences = config.max_sequences
        self._scheduler = scheduler
        self._end_ids = end_ids
        self._streams: dict[tuple[str, int], Stream[S]] = {}
        self._made: Outputs = {}
        self._steps = 0
        self._generated_tokens = 0

    def _make_sequences(self, job: Job, choices: list[int]) -> list[S]:
        """The sequences of a job that was checked, one for each of `choices`. Each engine has its own."""
        raise NotImplementedError

    def _make_tokens(self, outputs: Outputs) -> None:
        """Adds the batches of a step to `outputs`. Each engine has its own way."""
        raise NotImplementedError

    def _admit(self) -> None:
        """Called when streams have changed: for an engine that gives places to waiting sequences outside of `step`."""

    def prepare(self, job: Job) -> None:
        """An engine that has structured output overrides this."""
        constraint = job.sampling.constraint
        if constraint is not None:
            raise InvalidRequest("This engine has no structured output.", param=constraint.param)

    def add(self, job: Job) -> None:
        check_job(job, self.vocab_size, self.max_model_len_tokens)
        self.prepare(job)
        stream = (job.ingress, job.key)
        if stream in self._streams:
            raise InvalidRequest(f"The ingress already has a stream with the key {job.key}.")
        choices = open_choices(job)
        check_places(len(self._scheduler), len(choices), self.max_sequences)
        unfinished: list[S] = []
        ended: list[TokenBatch] = []
        for sequence in self._make_sequences(job, choices):
            finish, stop_token = sequence.finish(self._end_ids)
            if finish is None:
                unfinished.append(sequence)
            else:
                batch = TokenBatch(
                    sequence.key, sequence.choice, sequence.position, [], finish, stop_token=stop_token
                )
                ended.append(batch)
        # Nothing is kept of the job up to here, if something fails.
        if ended:
            self._made.setdefault(job.ingress, []).extend(ended)
        if unfinished:
            self._streams[stream] = Stream(unfinished)
        for sequence in unfinished:
            self._scheduler.add(sequence)
        self._admit()

    def step(self) -> Outputs:
        self.progress()
        self._make_tokens(self._made)
        outputs, self._made = self._made, {}
        self._steps += 1
        return outputs

    def abort(self, ingress: str, key: int) -> None:
        stream = self._streams.pop((ingress, key), None)
        left = [batch for batch in self._made.pop(ingress, ()) if batch.key != key]
        if left:
            self._made[ingress] = left
        for sequence in () if stream is None else stream.sequences:
            self._scheduler.remove(sequence)
        self._admit()

    def end(self, ingress: str, key: int, choice: int) -> None:
        for sequence in list(self._sequences(ingress, key)):
            if sequence.choice == choice:
                self._end(self._made, sequence, "stop")
        self._admit()

    def pause(self, ingress: str, key: int) -> None:
        for sequence in self._sequences(ingress, key):
            self._scheduler.pause(sequence)
        self._admit()

    def resume(self, ingress: str, key: int) -> None:
        for sequence in self._sequences(ingress, key):
            self._scheduler.resume(sequence)
        self._admit()

    def steer(self, ingress: str, key: int, steering: Steering) -> None:
        stream = self._streams.get((ingress, key))
        if stream is None or steering.id in stream.steering_ids:
            return
        stream.steering_ids.add(steering.id)
        unknown = next((token for token in steering.token_ids if not 0 <= token < self.vocab_size), None)
        for sequence in list(stream.sequences):
            if unknown is None:
                self._steer(sequence, steering)
            else:
                error = (
                    f"The steering has the token id {unknown}; the vocabulary has {self.vocab_size} tokens."
                )
                self._end(self._made, sequence, "error", error=error)
        self._admit()

    def fail_all(self, message: str) -> Outputs:
        outputs, self._made = self._made, {}
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            for sequence in stream.sequences:
                batch = TokenBatch(
                    sequence.key, sequence.choice, sequence.position, [], "error", error=message
                )
                outputs.setdefault(sequence.ingress, []).append(batch)
        self._scheduler.clear()
        return outputs

    def _sequences(self, ingress: str, key: int) -> Items[S]:
        stream = self._streams.get((ingress, key))
        return () if stream is None else stream.sequences

    def _steer(self, sequence: S, steering: Steering) -> None:
        """Appends the tokens of a steering, as far as there is room for them. The batch comes out with the next step."""
        position = sequence.position
        token_ids = steering.token_ids[: sequence.room]
        sequence.steer(token_ids)
        ends = sequence.room <= 0
        batch = TokenBatch(
            key=sequence.key,
            choice=sequence.choice,
            position=position,
            token_ids=token_ids,
            finish="length" if ends else None,
            logprobs=None if sequence.sampling.logprobs is None else steered_logprobs(len(token_ids)),
            edits=[Edit(id=steering.id, position=position, steered=len(token_ids))],
        )
        if ends:
            self._put_out_last(self._made, sequence, batch)
        else:
            self._made.setdefault(sequence.ingress, []).append(batch)

    def _end(
        self,
        outputs: Outputs,
        sequence: S,
        finish: EngineFinish,
        token_ids: list[int] | None = None,
        stop_token: int | None = None,
        logprobs: list[TokenLogprob] | None = None,
        error: str | None = None,
    ) -> None:
        """Puts out the last batch of a sequence, with the tokens that it got in this step, and forgets the sequence."""
        new = token_ids or []
        position = sequence.position - len(new)
        batch = TokenBatch(sequence.key, sequence.choice, position, new, finish, stop_token, logprobs, error)
        self._put_out_last(outputs, sequence, batch)

    def _put_out_last(self, outputs: Outputs, sequence: S, batch: TokenBatch) -> None:
        """Puts out the ending of a sequence, then frees what it holds. Its stream is over with the last sequence."""
        name = (sequence.ingress, sequence.key)
        stream = self._streams[name]
        stream.sequences.remove(sequence)
        if not stream.sequences:
            del self._streams[name]
        outputs.setdefault(sequence.ingress, []).append(batch)
        self._scheduler.remove(sequence)
