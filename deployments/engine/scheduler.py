"""Which sequences take part in a step, and with how many tokens.

Rules: every running sequence that is past its prompt gets its next token in every step. Beside that a step takes up to
`chunk_tokens` tokens of prompts and steerings. The oldest of them gets at least half; the others come from the shortest to the
longest, so that a short prompt does not wait for a long one and the long one is not starved. A sequence that is resumed and kept
its keys gets a token in the next step; if the batch is full, the youngest waits in its place. So it does for one on trial: what
kills a replica is told from what only waited there by being computed at once.

Sequences get memory as they need it. One that finds none is passed by others, `MOST_PASSES` times. When the memory is full, that
of idle sequences is taken first. Then the youngest running sequence is preempted: it loses its keys and values, waits in the
order of its age, and is computed again later. Who is computed again must earn the next pause: what is computed again is at most
`COMPUTED_PER_TOKEN` times what is generated.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from deployments.engine.config import EngineConfig
from deployments.engine.extents import UNIT_TOKENS
from deployments.engine.kv_cache import KVCache
from deployments.engine.sequence import Sequence, State

MOST_PASSES = 32
COMPUTED_PER_TOKEN = 16
LEAST_TOKENS_PAID = 16
SPARE_TOKENS = 8
"""So many tokens of memory for each running sequence stay free when another gets its place, so that it is not soon preempted."""

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

    @property
    def unchecked(self) -> range:
        """The numbers of the handed-over tokens that are still to be checked and whose logits this chunk gives."""
        first = self.start + 1 - self.sequence.prompt_length
        return range(max(first, self.sequence.checked), min(first + self.count, self.sequence.handed_over))


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
        """Takes the sequence out of the batch or the queue. It keeps its memory until another sequence needs it.

        One whose tokens had to be computed again goes on until that has paid: a reader that pauses after each token would have
        all of them computed for each.
        """
        if sequence.state is State.RUNNING and sequence.position < sequence.paid_from:
            sequence.pause_asked = True
        elif sequence.state in (State.RUNNING, State.WAITING):
            self._list_of(sequence).remove(sequence)
            sequence.state = State.PAUSED
            insort(self.paused, sequence, key=_by_age)

    def resume(self, sequence: Sequence) -> None:
        """Puts a paused sequence back into the queue, where its age belongs."""
        sequence.pause_asked = False
        if sequence.state is State.PAUSED:
            self.paused.remove(sequence)
            self.add(sequence)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step, none only when nothing waits or runs. Every chunk's extent has room
        for it.
        """
        for sequence in list(self.running):
            if sequence.pause_asked and sequence.position >= sequence.paid_from:
                sequence.pause_asked = False
                self.pause(sequence)
        self._readmit()
        self._admit_trial()
        preemptions = self.preemptions
        chunks, budget = self._schedule_running(self.chunk_tokens)
        if self.preemptions == preemptions:
            budget = self._admit(chunks, budget)
            self._spend(chunks, budget)
        # One that was preempted may have had its chunk already.
        return [chunk for chunk in chunks if chunk.sequence.state is State.RUNNING]

    # Running sequences.

    def _readmit(self) -> None:
        """Lets those run that wait for nothing but their next token."""
        for sequence in list(self.waiting):
            if sequence.extent is None or sequence.remaining > 1:
                continue
            if not self._give_place(sequence):
                return
            self._run(sequence)

    def _admit_trial(self) -> None:
        """Lets one on trial run, if none of its choices has yet and there is memory for it."""
        first = self.waiting[0] if self.waiting else None
        if first is None or not first.on_trial:
            return
        is_new = all(other.state is State.WAITING and not other.computed for other in first.siblings)
        if is_new and self._place(first) and self._give_place(first):
            self._run(first)

    def _schedule_running(self, budget: int) -> tuple[list[Chunk], int]:
        """The next token of each sequence that is through its tokens, and of the others up to `budget` tokens: the oldest gets up
        to half, what is left goes to the shortest. And the budget that is left.
        """
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            if sequence.remaining == 1 and sequence.state is State.RUNNING and self._make_room(sequence, 1):
                chunks.append(Chunk(sequence, sequence.computed, 1))
        reading = [sequence for sequence in self.running if sequence.remaining > 1]
        for sequence in reading[:1] + sorted(reading[1:], key=attrgetter("remaining")):
            most = -(-budget // 2) if sequence is reading[0] else budget
            count = min(sequence.remaining, most)
            if count and sequence.state is State.RUNNING and self._make_room(sequence, count):
                chunks.append(Chunk(sequence, sequence.computed, count))
                budget -= count
        return chunks, budget

    def _spend(self, chunks: list[Chunk], budget: int) -> None:
        """Lets the oldest prompt have what nobody else has taken of the budget, if there is memory for it."""
        place = next((place for place, chunk in enumerate(chunks) if chunk.sequence.remaining > 1), None)
        if place is None or not budget:
            return
        chunk = chunks[place]
        sequence, extent = chunk.sequence, chunk.sequence.extent
        assert extent is not None
        count = min(sequence.remaining, chunk.count + budget)
        if self._kv_cache.grow(extent, sequence.computed + count):
            chunks[place] = Chunk(sequence, sequence.computed, count)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Room for `count` more tokens of a running sequence. False when it was itself the youngest and had to
        go.
        """
        extent = sequence.extent
        assert extent is not None
        while not self._kv_cache.grow(extent, sequence.computed + count):
            if self._reclaim(sequence):
                continue
            youngest = self.running.pop()
            self.release(youngest)
            self.add(youngest)
            self.preemptions += 1
            if youngest is sequence:
                return False
        return True

    # Waiting sequences.

    def _admit(self, chunks: list[Chunk], budget: int) -> int:
        """Lets waiting sequences run, the oldest first, while there are places, memory and budget. Returns what is left of it."""
        passed: list[Sequence] = []
        for sequence in list(self.waiting):
            if budget <= 0 or len(self.running) >= self._max_running:
                break
            if sequence.extent is None and any(
                sibling.state is State.RUNNING and sibling.computed < sibling.prompt_length - 1
                for sibling in sequence.siblings
            ):
                # Another choice of the stream computes the prompt, which this one then copies.
                continue
            if not self._place(sequence):
                if sequence.passed >= MOST_PASSES:
                    break
                passed.append(sequence)
                continue
            for other in passed:
                other.passed += 1
            sequence.passed = 0
            self._run(sequence)
            count = min(sequence.remaining, budget)
            chunks.append(Chunk(sequence, sequence.computed, count))
            budget -= count
        return budget

    def _give_place(self, sequence: Sequence) -> bool:
        """Has the youngest wait, with its memory, if there is no place for an older one. Whether there is one then."""
        if len(self.running) >= self._max_running and self.running[-1].arrival > sequence.arrival:
            self.add(self.running.pop())
        return len(self.running) < self._max_running

    def _run(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        sequence.state = State.RUNNING
        insort(self.running, sequence, key=_by_age)

    def _place(self, sequence: Sequence) -> bool:
        """Gives a sequence memory for all its tokens: what it kept through a pause, or else new memory, filled with its
        prompt if a sibling has computed that. False when there is none; then no idle sequence loses its memory either.
        """
        if sequence.extent is not None:
            if self._kv_cache.grow(sequence.extent, len(sequence.tokens)):
                return True
            self.release(sequence)
        spare = len(self.running) * SPARE_TOKENS // UNIT_TOKENS * UNIT_TOKENS
        idle = (other.extent for other in self.paused + self.waiting if other.extent is not None)
        if not self._kv_cache.fits(len(sequence.tokens), idle, spare):
            return False
        while (extent := self._kv_cache.allocate(len(sequence.tokens))) is None:
            if not self._reclaim(sequence):
                return False
        sequence.extent = extent
        donor = max(sequence.siblings, key=lambda sibling: sibling.computed if sibling.extent else 0)
        if donor is not sequence and donor.extent is not None:
            # The last token of the prompt gives the logits of token 0, with which a handed-over one is compared.
            shared = min(donor.computed, sequence.prompt_length - 1)
            self._kv_cache.copy(donor.extent, extent, shared)
            sequence.computed = shared
        if sequence.position:
            tokens = max(sequence.remaining // COMPUTED_PER_TOKEN, LEAST_TOKENS_PAID)
            sequence.paid_from = sequence.position + tokens
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
