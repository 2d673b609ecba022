"""A stream: the request, its tokens so far, the changes among them, its ending. Everything else is derived from these.

A stream is fed synchronously on the event loop, by the channel of the generator that works for it or from the stream store, and
tells its readers at once. It ends exactly once; what is fed after that is dropped. It owns no task and no connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from app.errors import GenerationFailed, ServiceError
from app.ports import Clock, Generation
from app.schema.frames import ChoiceEnd, End, Error, FinishReason, Start, Usage, error_frame
from app.schema.tokens import Job, TokenBatch
from app.streams.changes import Changes
from app.streams.cursor import format_cursor
from app.streams.readers import Readers
from app.streams.stopwatch import Stopwatch
from app.streams.store import MAX_UNSTORED_TOKENS, Change

if TYPE_CHECKING:
    from app.streams.choice import Choice
    from app.streams.store import Excerpt, StreamRecord


class Stream:
    """The memory of one stream, and a `app.ports.TokenSink`.

    `choices` hold the tokens and the text. Generation pauses when even the foremost reader has more than `window_tokens` to take.
    `on_changed` is called when there are new tokens or the ending, `on_left` when a reader has left. A stream that another
    process produces (`produced_here` false) gets its ending by `conclude` only.
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
            "0",
            record.id,
            request.model,
            self.created,
            record.sampling.seed,
            len(record.prompt),
            record.deterministic,
        )
        self.ending: End | Error | None = None
        self.produced_here = False
        self._taken_over = False
        self.changes = Changes(choices)
        self.shows_tokens = request.return_token_ids or request.sampling.logprobs is not None
        self.readers = Readers(self, window_tokens=window_tokens, on_left=on_left)
        self.generation: Generation | None = None
        self._on_changed = on_changed
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self._stopwatch = Stopwatch(clock, began_s)

    # What the producer of the stream says.

    def begin(self, *, deterministic: bool) -> None:
        """The replica that begins the stream says what it is. Before the stream has a reader or is in the store."""
        self.record = msgspec.structs.replace(self.record, deterministic=deterministic)
        self.start = msgspec.structs.replace(self.start, deterministic=deterministic)

    def produce_here(self, *, taken_over: bool = False) -> None:
        """From now on this process generates the stream and makes its ending.

        Readers of a producer before this one may have seen more than is known here: changes wait until that is made again.
        """
        self.produced_here = True
        self._taken_over = taken_over
        if taken_over:
            self.changes.take_over(MAX_UNSTORED_TOKENS)
        self._finish_if_complete()

    def produce_elsewhere(self) -> None:
        """From now on another process produces the stream."""
        self.produced_here = False
        self.changes.give_up()
        self._settled.set()

    def change(self, change: Change) -> None:
        """Adds stop strings from the next text on, or steers as soon as possible. A change is made once."""
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
        self.generation = generation
        self._stopwatch.accepted()
        if self.readers.paused:
            generation.pause()
        for index, choice in enumerate(self.choices):
            if choice.finish_reason is not None:
                generation.end(index)  # it may have ended with tokens that came before the acceptance
        for steering in self.changes.steerings:
            generation.steer(steering)

    async def settled(self) -> None:
        """Returns when the stream has its ending, its generator is lost, or another process produces it."""
        await self._settled.wait()
        self._settled.clear()
        self.generation = None

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
        if batch.token_ids:
            self._stopwatch.generated()
        ended = choice.push(batch, known)
        if batch.edits is not None and self.produced_here:
            self.changes.made(batch.edits)
        if ended:
            self._finish_if_complete()
            if self.ending is None and self.generation is not None:
                self.generation.end(batch.choice)
        if self.changes.waiting:
            self._make_changes()
        self._on_changed(self)
        self.readers.tell()

    def absorb(self, excerpt: Excerpt) -> None:
        """Takes what the store has of the stream.

        Cuts off the readers when it was changed before tokens that are here already. Those tokens are wrong: a producer had made
        them before it lost the lease.
        """
        if any(self.choices[batch.choice].contradicts(batch) for batch in excerpt.batches):
            self.readers.cut_off()
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
        self.conclude(error_frame(self.cursor, error))

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
        self.readers.tell()

    def recorded(self, edits: Sequence[int]) -> None:
        """The store has so many edits of each choice: readers get what waited for that."""
        self.changes.recorded(edits)
        self.readers.tell()

    # What readers see.

    def goes_on(self) -> bool:
        """Whether this process is to generate more of the stream."""
        return self.produced_here and self.ending is None

    @property
    def may_lag(self) -> bool:
        """Whether readers may have seen more of the stream than is known here: the store lags behind the producer, and what the
        store did not have of it a producer that has taken over must make again.
        """
        return self.ending is None and (self._taken_over or not self.produced_here)

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
        prompt = self.start.prompt_tokens
        reasoning = sum(choice.reasoning_tokens for choice in self.choices)
        return Usage(prompt, completion, prompt + completion, reasoning_tokens=reasoning)

    # Inside.

    def _make_changes(self) -> None:
        """Makes the changes whose time has come."""
        for steering in self.changes.make():
            if self.generation is not None:
                self.generation.steer(steering)
        self._on_changed(self)

    def _finish_if_complete(self) -> None:
        if self.produced_here and all(choice.finish_reason is not None for choice in self.choices):
            self.conclude(self._end_frame())

    def _end_frame(self) -> End:
        choices = [
            ChoiceEnd(index, choice.finish_reason or "cancelled", choice.stop_reason, choice.message())
            for index, choice in enumerate(self.choices)
        ]
        hashes = [choice.text_sha256() for choice in self.choices]
        return End(self.cursor, choices, self.usage, self._stopwatch.timings(sum(self.counts)), hashes)
