"""An engine without a model: deterministic tokens at a set pace. It stands in for a GPU in load and fault
tests.

A token depends on the prompt, the seed, the choice and the position only, so a job that is handed over goes
on as it would have. Streams end by `max_tokens`, by the context length or by `stop_token_ids`; there is no
end token. Penalties, bias and the sampling filters have no effect: all `token_ids` are equally likely, and
logprobs say so.

The pace: a sequence's first token comes `first_token_s` after it got its place; then it gets a token at every
tick. Ticks are `step_s` apart on an absolute schedule, so that lateness doesn't add up; ticks that are missed
altogether are left out, as a slow GPU would. This file imports no torch.
"""

from __future__ import annotations

import math
import time
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt

from app.errors import InvalidRequest, Overloaded
from app.schema.tokens import EngineFinish, Job, Steering, TokenBatch, TokenLogprob
from deployments.engine.config import EngineConfig
from deployments.engine.jobs import SteeringRecord, check_job, open_choices, steered_batch
from deployments.engine.protocol import EngineStatistics, Outputs
from deployments.engine.randomness import mix

_BLOCK_TOKENS = 256


class SimulatedEngine:
    """Implements `protocol.Engine`. `clock` gives seconds; the loop that drives the engine waits as
    `next_step_s` says.

    `token_ids` are the printable ids of the vocabulary that it draws from.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        vocab_size: int,
        token_ids: Items[int],
        first_token_s: float,
        step_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not token_ids or not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            raise ValueError("token_ids must be a non-empty part of the vocabulary")
        self._config = config
        self._vocab_size = vocab_size
        self._token_ids = np.array(token_ids, dtype=np.int64)
        self._first_token_s = first_token_s
        self._step_s = step_s
        self._clock = clock
        self._streams: dict[tuple[str, int], list[_Simulated]] = {}
        self._waiting: deque[_Simulated] = deque()
        self._starting: deque[_Simulated] = deque()
        self._running: dict[_Simulated, None] = {}
        self._paused = 0
        self._steerings = SteeringRecord()
        # What was made between two steps, put out with the next one.
        self._made: Outputs = {}
        self._tick = 0.0
        self._used_tokens = 0
        self._steps = 0
        self._generated_tokens = 0

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def max_model_len_tokens(self) -> int:
        return self._config.max_model_len_tokens

    @property
    def has_work(self) -> bool:
        return bool(self._made or self._waiting or self._starting or self._running)

    @property
    def healthy(self) -> bool:
        return True

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(
            running=len(self._starting) + len(self._running),
            waiting=len(self._waiting),
            paused=self._paused,
            kv_tokens_used=self._used_tokens,
            kv_tokens_total=self._config.kv_cache_tokens,
            steps=self._steps,
            preemptions=0,
            generated_tokens=self._generated_tokens,
            failed_steps=0,
        )

    def next_step_s(self) -> float | None:
        if self._made:
            return 0.0
        due = self._starting[0].due if self._starting else math.inf
        if self._running:
            due = min(due, self._tick)
        return None if due == math.inf else max(0.0, due - self._clock())

    # Streams come and go.

    def add(self, job: Job) -> None:
        check_job(job, self._vocab_size, self.max_model_len_tokens)
        stream = (job.ingress, job.key)
        if stream in self._streams:
            raise InvalidRequest("A stream of this name is under way.")
        choices = open_choices(job)
        held = len(self._waiting) + len(self._starting) + len(self._running) + self._paused
        if held + len(choices) > self._config.max_sequences:
            raise Overloaded("The model is busy.", retry_after_s=1)
        sequences = [
            _Simulated(job, choice, self._token_ids, self.max_model_len_tokens) for choice in choices
        ]
        for sequence in sequences:
            if sequence.is_done:
                self._end(self._made, sequence, [], None)
            else:
                self._waiting.append(sequence)
        going_on = [sequence for sequence in sequences if not sequence.is_done]
        if going_on:
            self._streams[stream] = going_on
        self._admit()

    def abort(self, ingress: str, key: int) -> None:
        self._steerings.forget((ingress, key))
        for sequence in self._streams.pop((ingress, key), ()):
            self._take_out(sequence)
        left = [batch for batch in self._made.pop(ingress, ()) if batch.key != key]
        if left:
            self._made[ingress] = left
        self._admit()

    def pause(self, ingress: str, key: int) -> None:
        for sequence in self._streams.get((ingress, key), ()):
            if not sequence.paused:
                self._take_out(sequence)
                sequence.paused = True
                self._paused += 1
        self._admit()

    def resume(self, ingress: str, key: int) -> None:
        for sequence in self._streams.get((ingress, key), ()):
            if sequence.paused:
                sequence.paused = False
                self._paused -= 1
                self._waiting.append(sequence)
        self._admit()

    def steer(self, ingress: str, key: int, steering: Steering) -> None:
        stream = self._streams.get((ingress, key))
        if stream is None or not self._steerings.is_new((ingress, key), steering):
            return
        known = all(0 <= token < self._vocab_size for token in steering.token_ids)
        for sequence in list(stream):
            if known:
                self._steer(sequence, steering)
            else:
                self._fail(self._made, sequence, "What was put in has a token that the model does not have.")
        self._admit()

    def fail_all(self, message: str) -> Outputs:
        outputs, self._made = self._made, {}
        for sequence in [sequence for stream in self._streams.values() for sequence in stream]:
            self._fail(outputs, sequence, message)
        return outputs

    # The step.

    def step(self) -> Outputs:
        outputs, self._made = self._made, {}
        now = self._clock()
        if self._running and self._tick <= now:
            missed = math.floor((now - self._tick) / self._step_s)
            self._tick += (missed + 1) * self._step_s
            self._advance(outputs, list(self._running))
        started = list(self._started(now))
        if started:
            if not self._running:
                self._tick = started[-1].due + self._step_s
            self._running.update(dict.fromkeys(started))
            self._advance(outputs, started)
        self._steps += 1
        self._admit()
        return outputs

    def _started(self, now: float) -> Iterator[_Simulated]:
        while self._starting and self._starting[0].due <= now:
            sequence = self._starting.popleft()
            sequence.has_started = True
            yield sequence

    def _advance(self, outputs: Outputs, sequences: list[_Simulated]) -> None:
        """One token for each of `sequences`."""
        self._generated_tokens += len(sequences)
        self._used_tokens += len(sequences)
        for sequence in sequences:
            position = sequence.position
            token_ids = [sequence.block[position - sequence.block_start]]
            sequence.position = position + 1
            logprobs = sequence.logprobs(token_ids[0]) if sequence.wants_logprobs else None
            if position == sequence.checkpoint and sequence.is_done_after(token_ids[0]):
                self._take_out(sequence)
                self._forget(sequence)
                self._end(outputs, sequence, token_ids, logprobs)
                continue
            batch = TokenBatch(sequence.key, sequence.choice, position, token_ids, None, None, logprobs)
            if sequence.ingress in outputs:
                outputs[sequence.ingress].append(batch)
            else:
                outputs[sequence.ingress] = [batch]

    def _admit(self) -> None:
        """Gives free places to those who wait. One that was paused goes on with the next tick."""
        while self._waiting and len(self._starting) + len(self._running) < self._config.max_running_sequences:
            sequence = self._waiting.popleft()
            self._used_tokens += sequence.length
            if not sequence.has_started:
                sequence.due = self._clock() + self._first_token_s
                self._starting.append(sequence)
                continue
            if not self._running:
                self._tick = self._clock() + self._step_s
            self._running[sequence] = None

    def _steer(self, sequence: _Simulated, steering: Steering) -> None:
        position = sequence.position
        token_ids = steering.token_ids[: sequence.room]
        if not sequence.paused and sequence not in self._waiting:
            self._used_tokens += len(token_ids)
        sequence.steer(len(token_ids))
        batch = steered_batch(
            *(sequence.key, sequence.choice, position, steering, token_ids),
            *(sequence.wants_logprobs, sequence.is_done),
        )
        self._made.setdefault(sequence.ingress, []).append(batch)
        if sequence.is_done:
            self._take_out(sequence)
            self._forget(sequence)

    # Endings.

    def _take_out(self, sequence: _Simulated) -> None:
        """Takes a sequence from wherever it is."""
        if sequence.paused:
            sequence.paused = False
            self._paused -= 1
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            self._used_tokens -= sequence.length
            if sequence in self._running:
                del self._running[sequence]
            else:
                self._starting.remove(sequence)

    def _forget(self, sequence: _Simulated) -> None:
        stream = (sequence.ingress, sequence.key)
        self._streams[stream].remove(sequence)
        if not self._streams[stream]:
            del self._streams[stream]
            self._steerings.forget(stream)

    def _fail(self, outputs: Outputs, sequence: _Simulated, message: str) -> None:
        self._take_out(sequence)
        self._forget(sequence)
        batch = TokenBatch(sequence.key, sequence.choice, sequence.position, [], "error", error=message)
        outputs.setdefault(sequence.ingress, []).append(batch)

    def _end(
        self,
        outputs: Outputs,
        sequence: _Simulated,
        token_ids: list[int],
        logprobs: list[TokenLogprob] | None,
    ) -> None:
        position = sequence.position - len(token_ids)
        batch = TokenBatch(
            sequence.key,
            sequence.choice,
            position,
            token_ids,
            sequence.finish,
            sequence.stop_token,
            logprobs,
        )
        outputs.setdefault(sequence.ingress, []).append(batch)


class _Simulated:
    """One choice of one stream. Its tokens are made in blocks; `checkpoint` is the position at which to look
    up.
    """

    __slots__ = (
        "_early_ids", "_ids", "_key_hash", "_last", "_min_tokens", "_prompt_length", "_stops", "_top",
        "block", "block_start", "checkpoint", "choice", "due", "finish", "has_started", "ingress", "is_done", "key",
        "paused", "position", "stop_token", "wants_logprobs",
    )  # fmt: skip

    def __init__(self, job: Job, choice: int, ids: npt.NDArray[np.int64], max_model_len_tokens: int) -> None:
        generated = job.generated[choice] if job.generated else []
        sampling = job.sampling
        self.ingress = job.ingress
        self.key = job.key
        self.choice = choice
        self.position = len(generated)
        self.due = 0.0
        self.has_started = False
        self.paused = False
        self.is_done = False
        self.finish: EngineFinish | None = None
        self.stop_token: int | None = None
        self.wants_logprobs = sampling.logprobs is not None
        self._top = sampling.logprobs or 0
        self._prompt_length = len(job.prompt)
        self._last = min(sampling.max_tokens, max_model_len_tokens - len(job.prompt)) - 1
        self._min_tokens = sampling.min_tokens
        self._stops = frozenset(sampling.stop_token_ids)
        self._ids = ids
        allowed = ids[~np.isin(ids, sampling.stop_token_ids)] if self._stops else ids
        self._early_ids = allowed if len(allowed) else ids
        self._key_hash = np.uint64(mix(mix(sampling.seed ^ zlib.crc32(array("q", job.prompt))) ^ choice))
        self.block: list[int] = []
        self.block_start = self.position
        self.checkpoint = self.position - 1
        steered = job.steered[choice] if job.steered else 0
        self.is_done_after(generated[-1] if len(generated) > steered else -1)

    @property
    def length(self) -> int:
        return self._prompt_length + self.position

    @property
    def room(self) -> int:
        """How many tokens it may still get."""
        return self._last + 1 - self.position

    def steer(self, tokens: int) -> None:
        """Takes so many tokens that were put in: none of them is a stop token."""
        self.position += tokens
        self.is_done_after(-1)

    def is_done_after(self, token: int) -> bool:
        """Whether `token`, just before `position`, is the last one. If not, makes a block that starts at
        `position`.
        """
        if token in self._stops and self.position > self._min_tokens:
            self.finish, self.stop_token, self.is_done = "stop", token, True
        elif self.position > self._last:
            self.finish, self.is_done = "length", True
        else:
            self._make_block()
        return self.is_done

    def logprobs(self, token: int) -> list[TokenLogprob]:
        """All ids are equally likely."""
        logprob = -math.log(len(self._ids))
        return [TokenLogprob(logprob, [(int(other), logprob) for other in self._ids[: self._top]])]

    def _make_block(self) -> None:
        positions = np.arange(self.position, self.position + _BLOCK_TOKENS, dtype=np.uint64)
        numbers = _mix_all(positions ^ self._key_hash) >> np.uint64(11)
        tokens = self._ids[numbers % np.uint64(len(self._ids))]
        early = self._early_ids[numbers % np.uint64(len(self._early_ids))]
        self.block = np.where(positions < self._min_tokens, early, tokens).tolist()
        self.block_start = self.position
        ends = [self.position + len(self.block) - 1, max(self._last, self.position)]
        if self._stops:
            ends += [self.position + place for place, token in enumerate(self.block) if token in self._stops][
                :1
            ]
        self.checkpoint = min(ends)


def _mix_all(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`randomness.mix` of every element."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
