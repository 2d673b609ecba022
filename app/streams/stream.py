"""A stream: the request, its tokens so far and what was changed between them, its ending. The rest is derived from these.

A stream is fed synchronously on the event loop, by the channel of the generator that works for it or by what the stream store
has of it, and tells its readers at once. It ends exactly once; what is fed after that is dropped. It owns no task and no
connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.errors import GenerationFailed, ServiceError, draining
from app.ports import Clock, Generation
from app.schema.frames import ChoiceEnd, End, Error, ErrorDetail, FinishReason, Start, Timings, Usage
from app.schema.tokens import Job, TokenBatch
from app.streams.changes import Changes
from app.streams.cursor import format_cursor, parse_cursor
from app.streams.reader import Reader
from app.streams.store import MAX_UNSTORED_TOKENS, Change

if TYPE_CHECKING:
    from app.streams.choice import Choice
    from app.streams.store import Excerpt, StreamRecord


class Stream:
    """The memory of one stream, and a `app.ports.TokenSink`.

    `choices` hold the tokens and the text. `window_tokens` is how far the foremost reader may fall behind before generation
    pauses. `on_changed` is called when there are new tokens or the ending, `on_left` when a reader has left. A
    stream that another process drives (`produced_here` false) gets its ending by `conclude` only.
    """

    def __init__(
        self,
        record: StreamRecord,
        choices: Sequence[Choice],
        *,
        began_s: float,
        clock: Clock,
        window_tokens: int,
        on_changed: Callable[[Stream], None],
        on_left: Callable[[Stream], None],
    ) -> None:
        request = record.request
        self.id = record.id
        self.record = record
        self.request = request
        self.choices = choices
        self.created = int(record.created_s)
        self.start = Start(
            "0", record.id, request.model, self.created, record.sampling.seed, len(record.prompt)
        )
        self.ending: End | Error | None = None
        self.produced_here = False
        self.changes = Changes(choices)
        self.shows_tokens = request.return_token_ids or request.sampling.logprobs is not None
        self._clock = clock
        self._window_tokens = window_tokens
        self._on_changed = on_changed
        self._on_left = on_left
        self._readers: list[Reader] = []
        # How many readers there ever were, how many the store counts here, and whether one of those has not come yet.
        self.visits = self.counted_readers = 0
        self.awaits_reader = False
        self._generation: Generation | None = None
        self.paused = False
        self._notifying = False
        self._cut = False
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self._began_s = began_s
        self._accepted_s: float | None = None
        self._first_token_s: float | None = None

    # What the producer of the stream says.

    def drive(self, *, taken_over: bool = False) -> None:
        """From now on this process generates the stream and makes its ending.

        Readers of a producer before this one may have seen more than is known here: changes wait until that is made again.
        """
        self.produced_here = True
        if taken_over:
            self.changes.take_over(MAX_UNSTORED_TOKENS)
        self._finish_if_complete()

    def stand_by(self) -> None:
        """From now on another process drives the stream."""
        self.produced_here = False
        self.changes.give_up()
        self._settled.set()

    def change(self, change: Change) -> None:
        """Has stop strings added from the next text on, or tokens put in as soon as may be. A change is made once."""
        if self.ending is None and self.changes.order(change):
            self._make_changes()

    def job(self, ingress: str, key: int) -> Job:
        """What an engine must know to go on from here."""
        steered = [choice.steered for choice in self.choices]
        return Job(
            ingress=ingress,
            key=key,
            prompt=self.record.prompt,
            sampling=self.record.sampling,
            n=len(self.choices),
            generated=[list(choice.token_ids) for choice in self.choices],
            finished=[choice.finish_reason is not None for choice in self.choices],
            steered=steered if any(steered) else [],
        )

    def accept(self, generation: Generation) -> None:
        """A generator has taken the job."""
        self._generation = generation
        if self._accepted_s is None:
            self._accepted_s = self._clock.monotonic()
        if self.paused:
            generation.pause()
        for steering in self.changes.steerings:
            generation.steer(steering)

    async def settled(self) -> None:
        """Returns when the stream has its ending, its generator is lost, or another process drives it."""
        await self._settled.wait()
        self._settled.clear()
        self._generation = None

    async def ended(self) -> None:
        """Returns when the stream has its ending."""
        await self._ended.wait()

    def feed(self, batch: TokenBatch) -> None:
        """Takes the next tokens of a choice. Tokens that it has already are skipped; nothing is taken after the end."""
        if self.ending is not None:
            return
        if batch.finish == "error":
            self.fail(GenerationFailed(batch.error or "The generation of this stream failed."))
            return
        choice = self.choices[batch.choice]
        if choice.finish_reason is not None:
            return
        known = len(choice.token_ids) - batch.position
        if known < 0 or (batch.edits is not None and choice.contradicts(batch)):
            self.lost()
            return
        if self._first_token_s is None and batch.token_ids:
            self._first_token_s = self._clock.monotonic()
        ended = choice.push(batch, known)
        if batch.edits is not None and self.produced_here:
            self.changes.made(batch.edits)
        if ended:
            self._finish_if_complete()
        if self.changes.waiting:
            self._make_changes()
        self._on_changed(self)
        self._notify()

    def absorb(self, excerpt: Excerpt) -> None:
        """Takes what the store has of the stream.

        Cuts off the readers when it was changed before tokens that are here already, so that what is here is wrong: a producer
        had made them before it lost the lease.
        """
        if any(self.choices[batch.choice].contradicts(batch) for batch in excerpt.batches):
            self.cut()
            return
        for batch in excerpt.batches:
            self.feed(batch)
        if excerpt.ending is not None:
            self.conclude(excerpt.ending)

    def lost(self) -> None:
        """The generator is gone, or its tokens are: another attempt is needed."""
        self._settled.set()

    def fail(self, error: ServiceError) -> None:
        """Ends the stream with an error frame, unless it has ended."""
        detail = ErrorDetail(error.code, error.message, error.type, error.retryable)
        self.conclude(Error(self.cursor, detail))

    def cancel(self, finish_reason: FinishReason = "cancelled") -> None:
        """Ends every choice that still runs. Idempotent. Text that is held back is not released any more."""
        if self.ending is not None:
            return
        for choice in self.choices:
            choice.end(finish_reason)
        self.conclude(self._end_frame())

    def conclude(self, ending: End | Error) -> None:
        """Gives the stream its ending, unless it has one."""
        if self.ending is not None:
            return
        self.ending = ending
        self._settled.set()
        self._ended.set()
        self._on_changed(self)
        self._notify()

    def recorded(self, edits: Sequence[int]) -> None:
        """The store has so many edits of each choice: readers get what waited for that."""
        self.changes.recorded(edits)
        self._notify()

    # What readers see.

    @property
    def counts(self) -> list[int]:
        """Tokens of each choice."""
        return [len(choice.token_ids) for choice in self.choices]

    @property
    def cursor(self) -> str:
        return format_cursor(self.counts)

    @property
    def usage(self) -> Usage:
        completion = sum(self.counts)
        return Usage(self.start.prompt_tokens, completion, self.start.prompt_tokens + completion)

    @property
    def was_cut(self) -> bool:
        return self._cut

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._readers)

    def reader(
        self, after: str | None = None, *, ahead_tokens: int = 0, window_tokens: int | None = None
    ) -> Reader:
        """A reader from the start, or from behind the cursor `after`, which may be up to `ahead_tokens` beyond the stream.

        With `window_tokens` (at least 1) it takes so many tokens beyond those that it was told are acknowledged, no more.
        Raises `InvalidCursor`, and `Draining` after `cut`. How many there may be is for the `Audience` to say.
        """
        if self._cut and self.ending is None:
            raise draining()
        positions = [0] * len(self.choices) if after is None else parse_cursor(after, len(self.choices))
        reader = Reader(
            self,
            positions,
            resumed=after is not None,
            ahead_tokens=ahead_tokens,
            window_tokens=window_tokens,
        )
        self._readers.append(reader)
        self.visits += 1
        return reader

    def cut(self) -> None:
        """Cuts off the readers of a stream that has not ended: this process will not know how it goes on."""
        if self.ending is None:
            self._cut = True
            for reader in tuple(self._readers):
                reader.cut_off()

    def progressed(self) -> None:
        """A reader has taken or acknowledged frames: generation goes on if it had paused for it."""
        if self.paused and self._backlog() <= self._window_tokens // 2:
            self.paused = False
            if self._generation is not None:
                self._generation.resume()

    def leave(self, reader: Reader) -> None:
        """`reader` takes nothing more."""
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if self._readers:
            self._notify()
        else:
            self.progressed()
        self._on_left(self)

    # Inside.

    def _make_changes(self) -> None:
        """Makes the changes whose time has come."""
        for steering in self.changes.make():
            if self._generation is not None:
                self._generation.steer(steering)
        self._on_changed(self)

    def _notify(self) -> None:
        """Tells the readers: at once for one choice; for several, when the batches that came together have all been fed."""
        if len(self.choices) == 1:
            self._tell_readers()
        elif not self._notifying:
            self._notifying = True
            asyncio.get_running_loop().call_soon(self._tell_readers)

    def _tell_readers(self) -> None:
        self._notifying = False
        self._call_readers()
        if not self.paused and self.ending is None and self._backlog() > self._window_tokens:
            self.paused = True
            if self._generation is not None:
                self._generation.pause()
            # Perhaps they only lack text: now that generation waits for them, they take the tokens without.
            self._call_readers()

    def _call_readers(self) -> None:
        readers = self._readers
        for reader in readers if len(readers) == 1 else tuple(readers):
            if reader.on_ready is not None and (reader.window is None or reader.may_take):
                reader.on_ready()

    def _backlog(self) -> float:
        """Tokens that even the foremost reader has not taken; 0 without readers, who may come back to a finished text."""
        readers = self._readers
        if len(readers) == 1:  # nearly always, and asked for every token
            return readers[0].behind()
        return min((reader.behind() for reader in self._readers), default=0)

    def _finish_if_complete(self) -> None:
        if self.produced_here and all(choice.finish_reason is not None for choice in self.choices):
            self.conclude(self._end_frame())

    def _end_frame(self) -> End:
        choices = [
            ChoiceEnd(index, choice.finish_reason or "cancelled", choice.stop_reason)
            for index, choice in enumerate(self.choices)
        ]
        hashes = [choice.text_sha256() for choice in self.choices]
        return End(self.cursor, choices, self.usage, self._timings(), hashes)

    def _timings(self) -> Timings:
        now_s = self._clock.monotonic()
        total_s = max(now_s - self._began_s, 1e-9)
        first_s = self._first_token_s
        return Timings(
            queue_ms=round(((self._accepted_s or now_s) - self._began_s) * 1000, 3),
            ttft_ms=None if first_s is None else round((first_s - self._began_s) * 1000, 3),
            total_ms=round(total_s * 1000, 3),
            tokens_per_s=round(self.usage.completion_tokens / total_s, 3),
        )
