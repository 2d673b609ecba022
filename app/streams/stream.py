"""A stream: the request, the tokens sampled for it so far, its ending. Frames, text and bytes are derived from these.

A stream is fed by the channel of the generator that works for it, synchronously on the event loop, and tells its readers at
once. It ends exactly once; what is fed after that is dropped. It owns no task and no connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.errors import GenerationFailed, GeneratorUnavailable, ServiceError
from app.ports import Clock, Generation
from app.schema.frames import ChoiceEnd, End, Error, ErrorDetail, FinishReason, Start, Timings, Usage
from app.schema.requests import GenerationRequest
from app.schema.tokens import TokenBatch
from app.streams.cursor import format_cursor, parse_cursor
from app.streams.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.streams.choice import Choice


class Stream:
    """The memory of one stream, and a `app.ports.TokenSink`.

    `choices` hold the tokens and the text. `window_tokens` is how far the foremost reader may fall behind before generation
    pauses. `on_deserted` is called when the last reader has left before the end.
    """

    def __init__(
        self,
        stream_id: str,
        request: GenerationRequest,
        *,
        seed: int,
        prompt_tokens: int,
        choices: Sequence[Choice],
        began_s: float,
        clock: Clock,
        window_tokens: int,
        on_deserted: Callable[[Stream], None],
    ) -> None:
        self.id = stream_id
        self.request = request
        self.choices = choices
        self.created = int(clock.time())
        self.start = Start("0", stream_id, request.model, self.created, seed, prompt_tokens)
        self.ending: End | Error | None = None
        self.shows_tokens = request.return_token_ids or request.sampling.logprobs is not None
        self._clock = clock
        self._window_tokens = window_tokens
        self._on_deserted = on_deserted
        self._readers: list[Reader] = []
        self._generation: Generation | None = None
        self.paused = False
        self._notifying = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._began_s = began_s
        self._accepted_s: float | None = None
        self._first_token_s: float | None = None

    # What the driver of the stream says.

    def accept(self, generation: Generation) -> None:
        """A generator has taken the job; from now on errors are frames."""
        self._generation = generation
        self._accepted_s = self._clock.monotonic()

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
        if known < 0:
            self.fail(GeneratorUnavailable("Tokens of this stream were lost on their way."))
            return
        if self._first_token_s is None and batch.token_ids:
            self._first_token_s = self._clock.monotonic()
        if choice.push(batch, known) and all(other.finish_reason is not None for other in self.choices):
            self._finish()
        self._notify()

    def lost(self) -> None:
        """The replica that generated is gone, and with it the stream."""
        self.fail(GeneratorUnavailable("The replica that generated this stream is gone."))

    def fail(self, error: ServiceError) -> None:
        """Ends the stream with an error frame, unless it has ended."""
        if self.ending is not None:
            return
        detail = ErrorDetail(error.code, error.message, error.type, error.retryable)
        self._end(Error(self.cursor, detail))
        self._notify()

    def cancel(self, finish_reason: FinishReason = "cancelled") -> None:
        """Ends every choice that still runs. Idempotent. Text that is held back is not released any more."""
        if self.ending is not None:
            return
        for choice in self.choices:
            choice.end(finish_reason)
        self._finish()
        self._notify()

    async def ended(self) -> None:
        """Returns when the stream has its ending."""
        await asyncio.shield(self._ended)

    # What readers see.

    @property
    def cursor(self) -> str:
        return format_cursor([len(choice.token_ids) for choice in self.choices])

    @property
    def usage(self) -> Usage:
        completion = sum(len(choice.token_ids) for choice in self.choices)
        return Usage(self.start.prompt_tokens, completion, self.start.prompt_tokens + completion)

    def reader(self, after: str | None = None) -> Reader:
        """A reader from the start, or from behind the cursor `after`. Raises `InvalidCursor`."""
        positions = [0] * len(self.choices) if after is None else parse_cursor(after, len(self.choices))
        reader = Reader(self, positions, resumed=after is not None)
        self._readers.append(reader)
        return reader

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    def progressed(self) -> None:
        """A reader has taken frames: generation goes on if it had paused for it."""
        if self.paused and self._backlog() <= self._window_tokens // 2:
            self.paused = False
            if self._generation is not None:
                self._generation.resume()

    def leave(self, reader: Reader) -> None:
        """`reader` takes nothing more."""
        if reader not in self._readers:
            return
        self._readers.remove(reader)
        if self.ending is not None:
            return
        if self._readers:
            self._notify()
        else:
            self.progressed()
            self._on_deserted(self)

    # Inside.

    def _notify(self) -> None:
        """Tells the readers: at once for one choice; for several, when the batches that came together have all been fed."""
        if len(self.choices) == 1:
            self._tell_readers()
        elif not self._notifying:
            self._notifying = True
            asyncio.get_running_loop().call_soon(self._tell_readers)

    def _tell_readers(self) -> None:
        self._notifying = False
        for reader in tuple(self._readers):
            if reader.on_ready is not None:
                reader.on_ready()
        if not self.paused and self.ending is None and self._backlog() > self._window_tokens:
            self.paused = True
            if self._generation is not None:
                self._generation.pause()

    def _backlog(self) -> int:
        """Tokens that even the foremost reader has not taken; 0 without readers, who may come back to a finished text."""
        readers = self._readers
        if len(readers) == 1:  # nearly always, and asked for every token
            return readers[0].behind()
        return min((reader.behind() for reader in self._readers), default=0)

    def _finish(self) -> None:
        choices = [
            ChoiceEnd(index, choice.finish_reason or "cancelled", choice.stop_reason)
            for index, choice in enumerate(self.choices)
        ]
        hashes = [choice.text_sha256() for choice in self.choices]
        self._end(End(self.cursor, choices, self.usage, self._timings(), hashes))

    def _end(self, ending: End | Error) -> None:
        self.ending = ending
        if not self._ended.done():
            self._ended.set_result(None)

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
