"""What an engine is to the rest: jobs in, batches of tokens out, one step at a time.

Two things implement `Engine`: `engine.TransformersEngine` and `simulated.SimulatedEngine`. Neither knows
threads; a `loop.EngineLoop` owns one and is what other threads and event loops talk to. This file imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from app.schema.tokens import Job, Steering, TokenBatch

Outputs = dict[str, list[TokenBatch]]
"""What one step made, grouped by the ingress that it goes to."""


class UnsupportedModel(Exception):
    """Raised at start: this model can't be served. The message says why, for the operator."""


class EngineStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences by state, key-value memory in tokens, and counts since the start.

    `queue_s`: how long the sequence has waited that has waited longest; 0 when none waits. `divergences`: handed-over tokens that
    the engine would have chosen otherwise.
    """

    running: int
    waiting: int
    paused: int
    queue_s: float
    kv_tokens_used: int
    kv_tokens_total: int
    steps: int
    preemptions: int
    generated_tokens: int
    failed_steps: int
    divergences: int


class Engine(Protocol):
    """Generates for many streams at once. Not thread-safe: it has one owner.

    Every accepted choice that isn't aborted ends with exactly one batch whose `finish` is set. The batches of
    a choice come in order of position. After `abort` nothing of the stream comes any more.

    The owner may set `progress`. The engine calls it again and again inside of a step, wherever the work goes on, so that only
    a step that hangs is silent.
    """

    progress: Callable[[], None]

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_model_len_tokens(self) -> int: ...

    @property
    def max_sequences(self) -> int:
        """Sequences that it holds at once, paused ones included."""
        ...

    @property
    def has_work(self) -> bool: ...

    @property
    def healthy(self) -> bool:
        """False when steps have failed again and again, for no request's fault."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether a seeded or greedy request gets the same tokens whatever else is computed, and after a hand-over."""
        ...

    def prepare(self, job: Job) -> None:
        """Does what takes long of `add`, at any time and in any thread. Raises `InvalidRequest` as `add` does."""
        ...

    def add(self, job: Job) -> None:
        """Takes a job. Raises `InvalidRequest` (`PromptTooLong` among them) and `Overloaded`; then nothing is
        kept of it.
        """
        ...

    def abort(self, ingress: str, key: int) -> None:
        """Drops the stream and frees what it holds. Does nothing for a stream that isn't there."""
        ...

    def end(self, ingress: str, key: int, choice: int) -> None:
        """Ends one choice of a stream and frees what it holds. Its last batch comes out with the next step: it has no
        tokens, and "stop". Does nothing for a choice that has ended, and for a stream that isn't there.
        """
        ...

    def pause(self, ingress: str, key: int) -> None:
        """Leaves the stream out of the batch until `resume`. Does nothing for a stream that isn't there."""
        ...

    def resume(self, ingress: str, key: int) -> None:
        """Undoes `pause`. Does nothing for a stream that isn't paused."""
        ...

    def steer(self, ingress: str, key: int, steering: Steering) -> None:
        """Appends tokens to every unfinished choice of the stream; generation continues after them.

        They come out with the next step, in one batch for each choice with an `Edit`. They count like generated tokens,
        but no stop token among them ends the choice. Where `max_tokens` or the context has no room for all of them,
        the rest is cut off and the choice ends with "length". Does nothing for a steering that the stream has had, and
        for a stream that isn't there. Ids outside of the vocabulary end the stream with an error.
        """
        ...

    def step(self) -> Outputs:
        """Moves every running sequence on by one token, or by one chunk of its prompt. Raises nothing of a
        request's making.
        """
        ...

    def next_step_s(self) -> float | None:
        """Seconds until `step` has something to do: 0 for now, None for not before something is added or
        resumed.
        """
        ...

    def fail_all(self, message: str) -> Outputs:
        """Ends every stream with an error batch that says `message`."""
        ...

    def statistics(self) -> EngineStatistics: ...
