"""An engine without a model: deterministic tokens at a set pace. It stands in for a GPU in load and fault
tests.

A token depends on the prompt, the seed, the choice and the position only, so a job that another
replica takes over goes on as it would have. Its handed-over tokens are checked when it is added. Streams end by `max_tokens`,
by the context length or by `stop_token_ids`; there is no end token. Penalties, bias and the sampling filters have no effect:
all `token_ids` are equally likely, and logprobs say so.

The pace: a sequence's first token comes `first_token_s` after it got its place; then it gets a token at every
tick. Ticks are `step_s` apart on an absolute schedule, so that lateness doesn't add up. A missed tick is
left out: the tokens come later, not in a burst. This file imports no torch.
"""

from __future__ import annotations

import math
import time
import zlib
from array import array
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt

from app.schema.tokens import Job, Steering, TokenBatch, TokenLogprob
from app.settings import context_tokens
from deployments.engine.config import EngineConfig
from deployments.engine.divergences import DIVERGED, Divergences
from deployments.engine.job_choice import JobChoice, longest_wait_s
from deployments.engine.protocol import EngineStatistics, Outputs
from deployments.engine.randomness import mix, mix_all
from deployments.engine.stream_engine import StreamEngine

_BLOCK_TOKENS = 256


class SimulatedSequence(JobChoice):
    """Its tokens are made in blocks. `block` holds those from number `block_start` on; the token at number
    `checkpoint` is the first that may end the sequence or the block.

    `generated` counts its tokens, and `last_generated` is the latest one as of the last checkpoint. `due` is the
    time of its first token, in seconds of the engine's clock.
    """

    __slots__ = (
        "_early_ids", "_ids", "_key_hash", "block", "block_start", "checkpoint", "due",
        "generated", "has_started", "last_generated", "wants_logprobs",
    )  # fmt: skip

    def __init__(
        self, job: Job, choice: int, max_model_len_tokens: int, token_ids: npt.NDArray[np.int64]
    ) -> None:
        """`token_ids`: (printable tokens,), int64."""
        super().__init__(job, choice, max_model_len_tokens)
        generated = job.generated[choice] if job.generated else []
        self.generated = len(generated)
        self.last_generated = generated[-1] if generated else -1
        self.due = 0.0
        self.has_started = False
        self.wants_logprobs = job.sampling.logprobs is not None
        self._ids = token_ids
        stops = job.sampling.stop_token_ids
        allowed = token_ids[~np.isin(token_ids, stops)] if stops else token_ids
        self._early_ids = allowed if len(allowed) else token_ids
        self._key_hash = np.uint64(mix(mix(job.sampling.seed ^ zlib.crc32(array("q", job.prompt))) ^ choice))
        self.make_block()

    @property
    def position(self) -> int:
        return self.generated

    @property
    def last_token(self) -> int:
        return self.last_generated

    @property
    def length(self) -> int:
        """Tokens of the prompt and generated ones."""
        return self.prompt_length + self.position

    def steer(self, token_ids: list[int]) -> None:
        self.generated += len(token_ids)
        self.steered = self.position
        self.make_block()

    def logprobs(self) -> list[TokenLogprob]:
        """The report on any one token: all ids are equally likely."""
        logprob = -math.log(len(self._ids))
        top = self._ids[: self.sampling.logprobs or 0].tolist()
        return [TokenLogprob(logprob, [(token, logprob) for token in top])]

    def tokens(self, first: int, end: int) -> list[int]:
        """The tokens from number `first` to before number `end`."""
        positions = np.arange(first, end, dtype=np.uint64)
        numbers = mix_all(positions ^ self._key_hash) >> np.uint64(11)
        tokens = self._ids[numbers % np.uint64(len(self._ids))]
        early = self._early_ids[numbers % np.uint64(len(self._early_ids))]
        made: list[int] = np.where(positions < self.sampling.min_tokens, early, tokens).tolist()
        return made

    def make_block(self) -> None:
        """Makes the block that starts at `position`."""
        self.block = self.tokens(self.position, self.position + _BLOCK_TOKENS)
        self.block_start = self.position
        ends = [self.position + _BLOCK_TOKENS - 1, max(self.max_tokens - 1, self.position)]
        stops = frozenset(self.sampling.stop_token_ids)
        if stops:
            ends += [self.position + place for place, token in enumerate(self.block) if token in stops][:1]
        self.checkpoint = min(ends)


class Pace:
    """The scheduler: which sequences wait or have a place, and when the next tokens are due, by `clock` in seconds.

    `starting` sequences have a place and wait for their first token, in the order of their times. `running` ones
    get a token at each tick. `used_tokens` counts the tokens of both.
    """

    def __init__(
        self, config: EngineConfig, first_token_s: float, step_s: float, clock: Callable[[], float]
    ) -> None:
        self._max_running = config.max_running_sequences
        self._first_token_s = first_token_s
        self._step_s = step_s
        self._clock = clock
        self._tick_at = 0.0
        self.waiting: deque[SimulatedSequence] = deque()
        self.starting: deque[SimulatedSequence] = deque()
        self.running: dict[SimulatedSequence, None] = {}
        self.paused: set[SimulatedSequence] = set()
        self.used_tokens = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.starting) + len(self.running) + len(self.paused)

    def add(self, sequence: SimulatedSequence) -> None:
        sequence.queued_s = self._clock()
        self.waiting.append(sequence)

    def remove(self, sequence: SimulatedSequence) -> None:
        if sequence in self.paused:
            self.paused.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            self.used_tokens -= sequence.length
            if sequence in self.running:
                del self.running[sequence]
            else:
                self.starting.remove(sequence)

    def clear(self) -> None:
        self.waiting.clear()
        self.starting.clear()
        self.running.clear()
        self.paused.clear()
        self.used_tokens = 0

    def pause(self, sequence: SimulatedSequence) -> None:
        if sequence not in self.paused:
            self.remove(sequence)
            self.paused.add(sequence)

    def resume(self, sequence: SimulatedSequence) -> None:
        if sequence in self.paused:
            self.paused.remove(sequence)
            self.add(sequence)

    def admit(self) -> None:
        """Gives free places to waiting sequences. One that had started before its pause goes on with the next tick."""
        while self.waiting and len(self.starting) + len(self.running) < self._max_running:
            sequence = self.waiting.popleft()
            self.used_tokens += sequence.length
            if not sequence.has_started:
                sequence.due = self._clock() + self._first_token_s
                self.starting.append(sequence)
                continue
            if not self.running:
                self._tick_at = self._clock() + self._step_s
            self.running[sequence] = None

    def next_s(self) -> float | None:
        """Seconds until a token is due, None when no sequence has a place."""
        due = self.starting[0].due if self.starting else math.inf
        if self.running:
            due = min(due, self._tick_at)
        return None if due == math.inf else max(0.0, due - self._clock())

    def tick(self, now: float) -> list[SimulatedSequence]:
        """The running sequences, if a tick is due. The next tick is after `now`."""
        if not self.running or self._tick_at > now:
            return []
        missed = math.floor((now - self._tick_at) / self._step_s)
        self._tick_at += (missed + 1) * self._step_s
        return list(self.running)

    def start(self, now: float) -> list[SimulatedSequence]:
        """The sequences whose first token is due. From now on they run."""
        started = []
        while self.starting and self.starting[0].due <= now:
            started.append(self.starting.popleft())
            started[-1].has_started = True
        if started and not self.running:
            self._tick_at = started[-1].due + self._step_s
        self.running.update(dict.fromkeys(started))
        return started


class SimulatedEngine(StreamEngine[SimulatedSequence]):
    """Implements `protocol.Engine`. `clock` gives seconds; the engine's owner waits as `next_step_s` says.

    `token_ids` are the printable ids of the vocabulary that it draws from.
    """

    _scheduler: Pace

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
        pace = Pace(config, first_token_s, step_s, clock)
        context = context_tokens(None, config.max_model_len_tokens, config.kv_cache_tokens)
        super().__init__(config, pace, vocab_size=vocab_size, max_model_len_tokens=context)
        self._kv_cache_tokens = config.kv_cache_tokens
        self._divergences = Divergences(config.on_divergence, "simulated numbers")
        self._token_ids = np.array(token_ids, dtype=np.int64)
        self._clock = clock

    @property
    def has_work(self) -> bool:
        return bool(self._made) or len(self._scheduler) > len(self._scheduler.paused)

    @property
    def healthy(self) -> bool:
        return True

    @property
    def deterministic(self) -> bool:
        return True

    def next_step_s(self) -> float | None:
        return 0.0 if self._made else self._scheduler.next_s()

    def statistics(self) -> EngineStatistics:
        pace = self._scheduler
        return EngineStatistics(
            running=len(pace.starting) + len(pace.running),
            waiting=len(pace.waiting),
            paused=len(pace.paused),
            queue_s=longest_wait_s(pace.waiting, self._clock()),
            kv_tokens_used=pace.used_tokens,
            kv_tokens_total=self._kv_cache_tokens,
            steps=self._steps,
            preemptions=0,
            generated_tokens=self._generated_tokens,
            failed_steps=0,
            divergences=self._divergences.count,
        )

    def add(self, job: Job) -> None:
        super().add(job)
        for sequence in list(self._sequences(job.ingress, job.key)):
            sent = job.generated[sequence.choice] if job.generated else []
            own = sequence.tokens(sequence.steered, len(sent))
            ends = [
                self._divergences.compare(sequence, position, sent[position], token)
                for position, token in enumerate(own, sequence.steered)
            ]
            if any(ends):
                self._end(self._made, sequence, "error", error=DIVERGED)
        self._admit()

    def _make_tokens(self, outputs: Outputs) -> None:
        now = self._clock()
        self._advance(outputs, self._scheduler.tick(now))
        self._advance(outputs, self._scheduler.start(now))
        self._admit()

    def _advance(self, outputs: Outputs, sequences: list[SimulatedSequence]) -> None:
        """One token for each of `sequences`."""
        self._generated_tokens += len(sequences)
        self._scheduler.used_tokens += len(sequences)
        for sequence in sequences:
            position = sequence.generated
            token_ids = [sequence.block[position - sequence.block_start]]
            sequence.generated = position + 1
            logprobs = sequence.logprobs() if sequence.wants_logprobs else None
            if position == sequence.checkpoint:
                sequence.last_generated = token_ids[0]
                finish, stop_token = sequence.finish(self._end_ids)
                if finish is not None:
                    self._end(outputs, sequence, finish, token_ids, stop_token, logprobs)
                    continue
                sequence.make_block()
            batch = TokenBatch(sequence.key, sequence.choice, position, token_ids, None, None, logprobs)
            if sequence.ingress in outputs:
                outputs[sequence.ingress].append(batch)
            else:
                outputs[sequence.ingress] = [batch]

    def _make_sequences(self, job: Job, choices: list[int]) -> list[SimulatedSequence]:
        return [
            SimulatedSequence(job, choice, self.max_model_len_tokens, self._token_ids) for choice in choices
        ]

    def _admit(self) -> None:
        self._scheduler.admit()

    def _steer(self, sequence: SimulatedSequence, steering: Steering) -> None:
        pace = self._scheduler
        if sequence not in pace.paused and sequence not in pace.waiting:
            pace.used_tokens += min(len(steering.token_ids), sequence.room)
        super()._steer(sequence, steering)
