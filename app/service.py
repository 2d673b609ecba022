"""The service: what every way in calls. It starts streams, reads them, changes and ends them, wherever they are produced.

Four parts do the work, one of each in a process:

    Producer       generates the streams that this process has the lease of: the main flow, `Producer._live`
    Follower       feeds streams that other processes produce from the stream store
    Audience       counts the readers of a stream, and ends it when the last has left
    StreamOrders   has streams changed or ended by whichever process produces them

Everything that can fail before the first frame fails there with its status; after that every failure is a frame. When a process
stops, its streams do not end: they stay in the stream store. Their readers are cut off and resume through another process, which
goes on with the streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from app.auth import callers
from app.clock import SystemClock
from app.context import check_tokens, check_vocabulary
from app.errors import InvalidCursor, StoreUnavailable, draining
from app.follower import Follower
from app.model import Model
from app.models import Models
from app.ports import Clock, ModelCard
from app.producer import Producer, StartedBefore
from app.schema.requests import GenerationRequest
from app.settings import Settings
from app.stream_orders import StreamOrders, added_stops, steered
from app.streams.cursor import check_reached, parse_cursor
from app.streams.reader import Reader
from app.streams.status import StreamStatus, status_of
from app.streams.store import MAX_UNSTORED_TOKENS, Idempotency, StreamStore
from app.streams.stream import Stream
from app.tasks import Tasks

LAG_S = 20.0
"""How long a reader waits for a running stream to get as far as it has it. Then its cursor is none of the stream.

A stream whose producer died while the store had lost its memory begins again, when another generator has started.
"""
LAG_POLL_S = 0.1


class GenerationService:
    """Streams of the configured models. `ingress` names this process to the generators and to the stream store.

    `run` keeps the service going; without it streams are neither recorded nor cancelled from elsewhere. `on_close` are called,
    synchronously, when it closes: what holds a connection open must end it then. Making it raises `KeyFileError` when the file of
    keys that the settings name is invalid.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, Model],
        store: StreamStore,
        *,
        ingress: str,
        clock: Clock | None = None,
    ) -> None:
        clock = self._clock = clock or SystemClock()
        self.settings = settings
        self.on_close: set[Callable[[], None]] = set()
        self._models = Models(models)
        self._store = store
        self._callers = callers(settings.auth.keys_file, clock)
        self._tasks = Tasks()
        self._producer = Producer(
            settings,
            self._models,
            store,
            name=ingress,
            clock=clock,
            tasks=self._tasks,
            on_taken_over=lambda stream: self._follower.follow(stream),
        )
        self._follower = Follower(self._models, store, self._producer, clock=clock, tasks=self._tasks)
        self._orders = StreamOrders(store, self._producer, self._follower, clock=clock, tasks=self._tasks)
        self._running: asyncio.Future[tuple[None, None]] | None = None

    def owner_of(self, headers: Mapping[str, str]) -> str:
        """The owner of what a request with these headers makes. `headers` must find names in any case.

        Raises `AuthenticationFailed` when keys are required and the headers have no valid one.
        """
        return self._callers.owner_of(headers)

    async def start(
        self, request: GenerationRequest, owner: str = "", idempotency: Idempotency | None = None
    ) -> Stream:
        """Starts a stream; returns it when a generator has accepted it and the stream store has its record. `read` is next.

        With an idempotency key that `owner` has used before it is the first stream. Raises the `ServiceError` that prevents
        it. A caller that is cancelled leaves nothing, or a stream that its last reader has left.
        """
        self._check_open()
        try:
            return await self._producer.start(request, owner, idempotency)
        except StartedBefore as earlier:
            return await self._follower.find(earlier.stream_id, owner)

    async def start_all(self, requests: Sequence[GenerationRequest], owner: str = "") -> list[Stream]:
        """Starts streams of one model that belong together: all of them or, with the first error that prevents one, none.

        Returns and raises as `start` does. A caller that is cancelled leaves nothing, or streams that their last reader has left.
        """
        self._check_open()
        self._producer.check_room(requests, owner)
        starting = [asyncio.ensure_future(self._producer.start(request, owner, None)) for request in requests]
        try:
            await asyncio.wait(starting)
        except asyncio.CancelledError:
            for start in starting:
                start.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            for stream in _started(starting):
                self._producer.audience.left(stream)
            raise
        errors = [error for start in starting if (error := start.exception()) is not None]
        if errors:
            for stream in _started(starting):
                stream.cancel()
            raise errors[0]
        return _started(starting)

    async def read(
        self, stream: Stream, after: str | None = None, window_tokens: int | None = None
    ) -> Reader:
        """A reader of a stream that `start` has returned; otherwise as `resume`."""
        return await self._producer.audience.join(
            stream, after, ahead_tokens=_ahead_tokens(stream), window_tokens=window_tokens
        )

    async def resume(
        self,
        stream_id: str,
        after: str | None = None,
        owner: str = "",
        window_tokens: int | None = None,
    ) -> Reader:
        """A reader of a stream after the cursor `after` (None: from the start), wherever the stream was started.

        With `window_tokens` it takes at most that many tokens beyond those that are acknowledged; generation waits for it only if
        this process produces the stream.

        Raises `StreamNotFound`, also for another owner's stream, `StreamExpired`, `InvalidCursor`, `TooManyReaders`,
        `StoreUnavailable` and `Draining`.
        """
        stream = await self._reached(stream_id, after, owner)
        return await self.read(stream, after, window_tokens)

    async def check_reached(self, stream_id: str, cursor: str, owner: str = "") -> None:
        """Raises what `resume` raises when a stream can't be resumed after `cursor`; reads nothing of it."""
        await self._reached(stream_id, cursor, owner)

    async def cancel(self, stream_id: str, owner: str = "") -> StreamStatus:
        """Cancels a stream; returns when it has ended. Idempotent. Raises as `resume` does."""
        self._check_open()
        await self._orders.end("cancel", stream_id, owner)
        return await self.status(stream_id, owner)

    async def stop(self, stream_id: str, owner: str = "") -> StreamStatus:
        """As `cancel`, but the choices that still run end with "stop". Text that is held back is not released either."""
        self._check_open()
        await self._orders.end("stop", stream_id, owner)
        return await self.status(stream_id, owner)

    async def add_stops(self, stream_id: str, stops: Sequence[str], owner: str = "") -> None:
        """Adds stop strings to a running stream. They take effect from the next text on.

        Returns when the store has the order, which survives this process and the producer. Strings that the stream has are no
        change. Raises `InvalidRequest`, `StreamEnded`, and as `resume` does. After `StoreUnavailable` they may still be added.
        """
        self._check_open()
        stream = await self._orders.running(stream_id, owner)
        change = added_stops(stream, stops)
        if change is not None:
            await self._orders.change(stream, change)

    async def steer(self, stream_id: str, text: str, owner: str = "") -> None:
        """Puts text into every unfinished choice of a running stream; generation goes on from it.

        Returns when the store has the order, as `add_stops` does. The text comes when the generator has put it in, once. Raises
        `InvalidRequest`, `PromptTooLong`, `StreamEnded`, `Overloaded`, `GeneratorUnavailable`, and as `resume` does.
        """
        self._check_open()
        stream = await self._orders.running(stream_id, owner)
        model = self._models.named(stream.request.model)
        token_ids = await model.tokenizer.encode_text(text)
        most = self.settings.limits.max_prompt_tokens or (await model.load()).max_model_len_tokens
        change = steered(stream, token_ids, most)
        await self._orders.change(stream, change)

    async def status(self, stream_id: str, owner: str = "") -> StreamStatus:
        """What is known of a stream. Raises as `resume` does."""
        stream = self._producer.streams.get(stream_id)
        if stream is not None and stream.record.owner == owner:
            return status_of(stream, None)
        record = await self._store.record(stream_id, owner)
        model = await self._models.loaded(record.request.model)
        excerpt = await self._store.read(stream_id, [0] * record.request.n)
        return status_of(self._producer.stream_of(record, model, excerpt), excerpt.expires_s)

    async def encode(self, request: GenerationRequest) -> list[int]:
        """The tokens of a request's prompt; nothing is started. Raises what `start` raises of a prompt."""
        model = self._models.named(request.model)
        check_vocabulary(request, await model.load())
        return await model.tokenizer.encode(request)

    async def decode(self, name: str, token_ids: Sequence[int]) -> str:
        """The text of tokens, control tokens included. Raises `InvalidRequest`, `ModelNotFound` and `GeneratorUnavailable`."""
        model = await self._models.loaded(name)
        check_tokens(token_ids, await model.load())
        return model.vocabulary.decode(list(token_ids), skip_special_tokens=False)

    async def token_names(self, name: str, token_ids: Sequence[int]) -> list[str]:
        """The names of tokens that a model has, as its vocabulary writes them. Raises as `decode` does."""
        vocabulary = (await self._models.loaded(name)).vocabulary
        return [vocabulary.id_to_token(token_id) or "" for token_id in token_ids]

    def cards(self) -> list[ModelCard]:
        """The models that are known well enough to be served."""
        return self._models.cards()

    def card(self, name: str) -> ModelCard:
        """The card of one model. Raises `ModelNotFound`."""
        return self._models.card(name)

    def ready(self) -> bool:
        """Whether a stream of every model could start and be recorded. False until `run` has heard from the stream store."""
        return self._producer.store_answers and self._models.ready

    def statistics(self) -> dict[str, int]:
        """The streams that this process produces and follows, and the sequences for which it holds places."""
        return {
            "produced": len(self._producer.streams),
            "followed": len(self._follower.streams),
            "sequences": self._models.sequences,
        }

    @property
    def closing(self) -> bool:
        """Whether nothing more begins here."""
        return self._tasks.closed

    async def load(self) -> None:
        """Learns what the models are, so that the first request need not wait for it. Raises `GeneratorUnavailable`."""
        await self._models.load()

    async def run(self) -> None:
        """Records streams and carries out the store's orders, until cancelled or closed; then closes the service."""
        self._running = asyncio.gather(self._producer.recorder.run(), self._producer.keep_leases())
        try:
            await self._running
        finally:
            await self.close()

    async def close(self) -> None:
        """Stops all that runs here, and cuts off the readers. The stream store keeps the streams as they are."""
        if self._running is not None:
            # From here on the lease runs out, so that other processes may go on.
            self._running.cancel()
        streams = [*self._producer.streams.values(), *self._follower.streams.values()]
        self._tasks.cancel()
        for stream in streams:
            stream.readers.cut_off()
        for close in tuple(self.on_close):
            close()
        await self._tasks.ended()

    async def _reached(self, stream_id: str, after: str | None, owner: str) -> Stream:
        """The stream, when it has got as far as `after`. Raises as `resume` does.

        What is known here may lag behind what readers have got elsewhere, as much as the store was away: that is waited for, and
        so is a store that has lost its memory.
        """
        give_up_s = self._clock.monotonic() + LAG_S
        while True:
            self._check_open()
            is_late = self._clock.monotonic() >= give_up_s
            try:
                stream = await self._follower.find(stream_id, owner)
            except StoreUnavailable:
                if is_late:
                    raise
            else:
                counts = parse_cursor("0" if after is None else after, len(stream.choices))
                try:
                    check_reached(counts, stream.counts, ahead_tokens=_ahead_tokens(stream))
                    return stream
                except InvalidCursor:
                    if is_late or not stream.may_lag:
                        raise
            await self._clock.sleep(LAG_POLL_S)

    def _check_open(self) -> None:
        if self._tasks.closed:
            raise draining()


def _ahead_tokens(stream: Stream) -> int:
    """How far a reader may be ahead of what is known here without a wait."""
    return MAX_UNSTORED_TOKENS if stream.may_lag else 0


def _started(starting: Sequence[asyncio.Future[Stream]]) -> list[Stream]:
    """The streams that have been started."""
    return [start.result() for start in starting if not start.cancelled() and start.exception() is None]
