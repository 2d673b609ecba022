"""Which sequences take part in a step, and with how many tokens.

Rules: every running sequence that is past its prompt gets its next token in every step. Beside that a step
takes up to `chunk_tokens` tokens of prompts and steerings, the oldest first, shared by several sequences where
they fit. Sequences get memory as they need it. When it is full, the memory of idle sequences is taken first. Then the
youngest running sequence is preempted: it loses its keys and values, waits in the order of its age, and is computed
again later.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from deployments.engine.config import EngineConfig
from deployments.engine.kv_cache import KVCache
from deployments.engine.sequence import Sequence, State

_by_age = attrgetter("arrival")


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` tokens of a sequence to compute in this step, from token `start`."""

    sequence: Sequence
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def samples(self) -> bool:
        """Whether the sequence's next token can be sampled after this chunk."""
        return self.end == len(self.sequence.tokens)


class Scheduler:
    """`waiting` and `running` are ordered by age. A sequence with an extent is in one of the three lists.

    `waiting` sequences may hold an extent (they were paused), `paused` ones too; that is what is taken back
    first. `chunk_tokens`: the prompt tokens of the next step, which the engine may set. `clock` gives seconds.
    """

    def __init__(
        self, config: EngineConfig, kv_cache: KVCache, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_running = config.max_running_sequences
        self.chunk_tokens = config.prefill_chunk_tokens
        self._kv_cache = kv_cache
        self._clock = clock
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.paused: list[Sequence] = []
        self.preemptions = 0

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running) + len(self.paused)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence into the queue, where its age belongs."""
        sequence.state = State.WAITING
        sequence.queued_s = self._clock()
        insort(self.waiting, sequence, key=_by_age)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence and frees its memory. Does nothing for one that is gone."""
        if sequence.state is State.GONE:
            return
        self._list_of(sequence).remove(sequence)
        sequence.state = State.GONE
        self.release(sequence)

    def clear(self) -> None:
        """Forgets all sequences and takes all memory back, without a touch of the device."""
        for sequences in (self.waiting, self.running, self.paused):
            for sequence in sequences:
                sequence.state = State.GONE
                sequence.extent = None
                sequence.computed = 0
            sequences.clear()
        self._kv_cache.reset()

    def pause(self, sequence: Sequence) -> None:
        """Takes the sequence out of the batch or the queue. It keeps its memory until another sequence needs it."""
        if sequence.state in (State.RUNNING, State.WAITING):
            self._list_of(sequence).remove(sequence)
            sequence.state = State.PAUSED
            insort(self.paused, sequence, key=_by_age)

    def resume(self, sequence: Sequence) -> None:
        """Puts a paused sequence back into the queue, where its age belongs."""
        if sequence.state is State.PAUSED:
            self.paused.remove(sequence)
            self.add(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step, none only when nothing waits or runs. Every chunk's extent has room
        for it.
        """
        preemptions = self.preemptions
        chunks, budget = self._schedule_running(self.chunk_tokens)
        if self.preemptions == preemptions:
            self._admit(chunks, budget)
        return chunks

    # Running sequences.

    def _schedule_running(self, budget: int) -> tuple[list[Chunk], int]:
        """The next token of each sequence that is through its tokens, and up to `budget` tokens of the others;
        what is left of the budget.

        The oldest first, so that a sequence that is preempted has no chunk yet.
        """
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            remaining = sequence.remaining
            count = 1 if remaining == 1 else min(remaining, budget)
            if count and sequence.state is State.RUNNING and self._make_room(sequence, count):
                chunks.append(Chunk(sequence, sequence.computed, count))
                budget -= count if remaining > 1 else 0
        return chunks, budget

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Room for `count` more tokens of a running sequence. False when it was itself the youngest and had to
        go.
        """
        extent = sequence.extent
        assert extent is not None
        while True:
            grown = self._kv_cache.grow(extent, sequence.computed, sequence.computed + count)
            if grown is not None:
                sequence.extent = grown
                return True
            if self._reclaim(sequence):
                continue
            youngest = self.running.pop()
            self.release(youngest)
            self.add(youngest)
            self.preemptions += 1
            if youngest is sequence:
                return False

    # Waiting sequences.

    def _admit(self, chunks: list[Chunk], budget: int) -> None:
        for sequence in list(self.waiting):
            if budget <= 0 or len(self.running) >= self._max_running:
                return
            if sequence.extent is None and any(
                sibling.state is State.RUNNING and sibling.computed < sibling.prompt_length - 1
                for sibling in sequence.siblings
            ):
                # Another choice of the stream computes the prompt, which this one then copies.
                continue
            if not self._place(sequence):
                return
            self.waiting.remove(sequence)
            sequence.state = State.RUNNING
            insort(self.running, sequence, key=_by_age)
            count = min(sequence.remaining, budget)
            chunks.append(Chunk(sequence, sequence.computed, count))
            budget -= count

    def _place(self, sequence: Sequence) -> bool:
        """Gives a sequence memory for all its tokens: what it kept through a pause, or else new memory, filled with its
        prompt if a sibling has computed that. False when there is none.
        """
        if sequence.extent is not None:
            grown = self._kv_cache.grow(sequence.extent, sequence.computed, len(sequence.tokens))
            if grown is not None:
                sequence.extent = grown
                return True
            self.release(sequence)
        extent = self._kv_cache.allocate(len(sequence.tokens))
        while extent is None:
            if not self._reclaim(sequence):
                return False
            extent = self._kv_cache.allocate(len(sequence.tokens))
        sequence.extent = extent
        donor = max(sequence.siblings, key=lambda sibling: sibling.computed if sibling.extent else 0)
        if donor is not sequence and donor.extent is not None:
            shared = min(donor.computed, sequence.prompt_length, len(sequence.tokens) - 1)
            self._kv_cache.copy(donor.extent, extent, shared)
            sequence.computed = shared
        return True

    # Memory.

    def _reclaim(self, needed_by: Sequence) -> bool:
        """Takes the memory of the youngest sequence that holds some without running. False when there is
        none.
        """
        for idle in (self.paused, self.waiting):
            for sequence in reversed(idle):
                if sequence.extent is not None and sequence is not needed_by:
                    self.release(sequence)
                    return True
        return False

    def release(self, sequence: Sequence) -> None:
        """Takes the memory of a sequence; what was computed of it is lost."""
        if sequence.extent is not None:
            self._kv_cache.free(sequence.extent)
            sequence.extent = None
        sequence.computed = 0

    def _list_of(self, sequence: Sequence) -> list[Sequence]:
        lists = {State.WAITING: self.waiting, State.RUNNING: self.running, State.PAUSED: self.paused}
        return lists[sequence.state]
