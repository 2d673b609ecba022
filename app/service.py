"""The service: starts streams, and finds those that were started before, here or elsewhere.

`GenerationService._live` is the main flow, from the request to the last frame. Everything that can fail before the first frame
fails there with its status; after that every failure is a frame. A stream lives in a task of its own, so that it outlives the
connection that asked for it.

When this process stops, its streams do not end: they stay in the store, and their readers are cut off, so that they resume
through
another process, which goes on with them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from app.admission import Quota
from app.auth import NOBODY, callers
from app.clock import SystemClock
from app.context import check_vocabulary, fit_sampling
from app.errors import (
    InternalError,
    ModelNotFound,
    ServiceError,
    StoreUnavailable,
    StreamExpired,
    StreamNotFound,
    draining,
)
from app.model import Model
from app.ports import Clock, ModelCard
from app.producer import Producer
from app.schema.requests import GenerationRequest
from app.settings import Settings
from app.stream_changes import StreamChanger, added_stops, check_running, put_in
from app.streams.audience import Audience
from app.streams.reader import Reader
from app.streams.status import StreamStatus, status_of
from app.streams.store import (
    MAX_UNSTORED_TOKENS,
    Excerpt,
    Idempotency,
    Order,
    StreamRecord,
    StreamStore,
)
from app.streams.stream import Stream

logger = logging.getLogger(__name__)

FOLLOW_WAIT_S = 1.0
RETRY_S = 0.25
# How long a stream of another process is followed when its last reader here has left: he may come back.
WATCHED_S = 2 * FOLLOW_WAIT_S
# How long readers wait for a store that does not answer, or that has lost its memory and is told again by the producer.
STORE_PATIENCE_S = 10.0
# How often another process's stream is ordered to be cancelled, in case its producer changes meanwhile.
CANCEL_AGAIN_S = 0.25


@dataclass
class _Opening:
    """A caller of `start` and its stream. `announced`: from here on the store may know it, and nobody drives it but us."""

    stream: asyncio.Future[Stream]
    announced: bool = False
    abandoned: bool = False


class GenerationService:
    """Streams of the configured models. `ingress` names this process to the generators and to the store.

    `run` keeps the service going; without it streams are neither recorded nor cancelled from elsewhere. `on_close` are called,
    synchronously, when it closes: what holds a connection open must end it then. Making it raises
    `KeyFileError` when the file of keys that the settings name is no good.
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
        self.settings = settings
        self.on_close: set[Callable[[], None]] = set()
        self._models = models
        self._store = store
        self._ingress = ingress
        self._clock = clock or SystemClock()
        self._callers = callers(settings.auth.keys_file, self._clock)
        # Without keys anybody can be as many callers as they like, and all who send none look the same.
        self._quota = Quota(settings.limits.max_streams_per_key) if settings.auth.keys_file else None
        self._producer = Producer(
            settings,
            store,
            ingress=ingress,
            clock=self._clock,
            on_taken_over=self._follow_soon,
            on_orphan=self._adopt_soon,
        )
        self._audience = Audience(settings.streams, store, name=ingress, clock=self._clock, spawn=self._spawn)
        self._changer = StreamChanger(store, self._producer, self._clock)
        self._followed: dict[str, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._work: asyncio.Future[tuple[None, None]] | None = None
        self._closing = False

    @property
    def closing(self) -> bool:
        """Whether nothing more is begun here."""
        return self._closing

    def owner_of(self, headers: Mapping[str, str]) -> str:
        """The owner of what a request with these headers makes. `headers` must find names in any case.

        Raises `AuthenticationFailed` when keys are required and there is no valid one.
        """
        return self._callers.owner_of(headers)

    async def start(
        self, request: GenerationRequest, owner: str = "", idempotency: Idempotency | None = None
    ) -> Stream:
        """Starts a stream; returns it when a generator has accepted it and the store has its record.

        With an idempotency key that `owner` has used before it is the first stream. Raises the `ServiceError` that prevents
        it. A caller that is cancelled leaves nothing behind, or a stream that its last reader has left. To `read` it is next.
        """
        self._check_open()
        opening = _Opening(asyncio.get_running_loop().create_future())
        life = self._spawn(self._live(request, owner, idempotency, opening))
        life.add_done_callback(lambda _: _refuse(draining(), opening))
        try:
            return await asyncio.shield(opening.stream)
        except asyncio.CancelledError:
            opening.abandoned = True
            if not opening.announced:
                life.cancel()
            elif opening.stream.done() and opening.stream.exception() is None:
                self._left(opening.stream.result())
            raise

    async def resume(
        self,
        stream_id: str,
        after: str | None = None,
        owner: str = "",
        window_tokens: int | None = None,
    ) -> Reader:
        """A reader of a stream behind the cursor `after` (None: from the start), wherever the stream was started.

        With `window_tokens` it takes no more than so many tokens beyond those that are acknowledged; generation waits for it
        only if this process drives the stream.

        Raises `StreamNotFound`, also for another owner's stream, `StreamExpired`, `InvalidCursor`, `TooManyReaders`,
        `StoreUnavailable` and `Draining`.
        """
        self._check_open()
        stream = await self._find(stream_id, owner)
        return await self.read(stream, after, window_tokens)

    async def read(
        self, stream: Stream, after: str | None = None, window_tokens: int | None = None
    ) -> Reader:
        """A reader of a stream that `start` has given; the rest is as with `resume`."""
        # The producer of a stream knows all of it. The store may lag, and a reader may know more than the store.
        lag = 0 if stream.produced_here or stream.ending is not None else MAX_UNSTORED_TOKENS
        return await self._audience.join(stream, after, ahead_tokens=lag, window_tokens=window_tokens)

    async def cancel(self, stream_id: str, owner: str = "") -> StreamStatus:
        """Cancels a stream wherever it is produced; returns when it has ended. Idempotent. Raises as `resume` does."""
        return await self._end(Order("cancel", stream_id), owner)

    async def stop(self, stream_id: str, owner: str = "") -> StreamStatus:
        """As `cancel`, but the choices that still run end with "stop". Text that is held back is not released either."""
        return await self._end(Order("stop", stream_id), owner)

    async def add_stops(self, stream_id: str, stops: Sequence[str], owner: str = "") -> None:
        """Adds stop strings to a running stream, which take effect from the next text on, wherever it is produced.

        Returns when the store has the order: it survives this process and the producer.
        Strings that the stream has are no change.
        Raises `InvalidRequest`, `StreamEnded`, and as `resume` does; after `StoreUnavailable` it may happen yet.
        """
        stream = await self._running(stream_id, owner)
        change = added_stops(stream, stops)
        if change is not None:
            await self._changer.change(stream, change)

    async def steer(self, stream_id: str, text: str, owner: str = "") -> None:
        """Puts text into every choice of a running stream that goes on; generation goes on from it, wherever it is produced.

        Returns when the store has the order, as `add_stops` does; the text comes when the generator has put it in, once. Raises
        `InvalidRequest`, `PromptTooLong`, `StreamEnded`, `Overloaded`, `GeneratorUnavailable`, and as `resume` does.
        """
        stream = await self._running(stream_id, owner)
        token_ids = await self._model(stream.request.model).tokenizer.encode_text(text)
        await self._changer.change(stream, put_in(stream, token_ids, self.settings.limits.max_prompt_tokens))

    async def status(self, stream_id: str, owner: str = "") -> StreamStatus:
        """What is known of a stream. Raises as `resume` does."""
        stream = self._producer.streams.get(stream_id)
        if stream is None or stream.record.owner != owner:
            record = await self._store.record(stream_id, owner)
            excerpt = await self._store.read(stream_id, [0] * record.request.n)
            stream = self._stream(record, await self._loaded(record), excerpt)
            return status_of(stream, excerpt.expires_s)
        return status_of(stream, None)

    def cards(self) -> list[ModelCard]:
        """The models that are known well enough to be served."""
        return [model.card for model in self._models.values() if model.card is not None]

    def card(self, name: str) -> ModelCard:
        """The card of one model. Raises `ModelNotFound`."""
        card = self._model(name).card
        if card is None:
            raise ModelNotFound(f"The model {name} is not ready yet.", param="model")
        return card

    def ready(self) -> bool:
        """Whether a stream of every model could start and be recorded. False until `run` has heard from the store."""
        return self._producer.store_answers and all(model.ready for model in self._models.values())

    async def load(self) -> None:
        """Learns what the models are, so that the first request need not wait for it. Raises `GeneratorUnavailable`."""
        for model in self._models.values():
            await model.load()

    async def run(self) -> None:
        """Records streams and carries out the store's orders, until cancelled or closed; then closes the service."""
        self._work = asyncio.gather(self._producer.recorder.run(), self._producer.keep_leases())
        try:
            await self._work
        finally:
            await self.close()

    async def close(self) -> None:
        """Lets go of every stream of this process, and cuts off its readers. The store keeps the streams as they are."""
        self._closing = True
        if self._work is not None:
            # From here on the lease runs out, so that other processes may go on.
            self._work.cancel()
        streams = [*self._producer.streams.values(), *self._followed.values()]
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for stream in streams:
            stream.cut()
        for close in tuple(self.on_close):
            close()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The life of a stream.

    async def _live(
        self, request: GenerationRequest, owner: str, idempotency: Idempotency | None, opening: _Opening
    ) -> None:
        """Admitted, encoded, generated, logged, ended. Raises nothing: `opening` gets the stream, or the error."""
        stream: Stream | None = None

        async def announce() -> bool:
            assert stream is not None
            opening.announced = True
            first = await self._store.create(stream.record, self._ingress, idempotency)
            if first == stream.id:
                self._audience.expect(stream)
                self._producer.own(stream, epoch=1, logged=[0] * request.n)
                self._opened(opening, stream)
            else:
                self._opened(opening, await self._find(first, owner))
            return first == stream.id

        try:
            model = self._model(request.model)
            with self._permit(owner, model, request.n):
                record = await self._record(request, owner, model)
                stream = self._stream(record, model)
                await self._producer.drive(stream, model, announce)
            await self._producer.conclude(stream)
        except ServiceError as error:
            _refuse(error, opening)
        except Exception:
            logger.exception("a request broke")
            _refuse(InternalError("The server failed to handle the request."), opening)

    def _opened(self, opening: _Opening, stream: Stream) -> None:
        opening.stream.set_result(stream)
        if opening.abandoned:
            self._left(stream)

    async def _record(self, request: GenerationRequest, owner: str, model: Model) -> StreamRecord:
        card = await model.load()
        check_vocabulary(request, card)
        created_s = self._clock.time()
        prompt = list(request.prompt_token_ids or ()) or await model.tokenizer.encode(request)
        seed = secrets.randbits(53) if request.seed is None else request.seed
        return StreamRecord(
            id=f"st_{secrets.token_hex(16)}",
            owner=owner,
            request=request,
            prompt=prompt,
            sampling=fit_sampling(request, prompt, seed, card, self.settings.limits),
            created_s=created_s,
        )

    # Streams that are ended or changed from outside.

    async def _end(self, order: Order, owner: str) -> StreamStatus:
        self._check_open()
        while (stream := await self._find(order.stream, owner)).ending is None:
            if stream.produced_here:
                self._producer.obey(order)
            else:
                # Its producer may be gone: then it is produced_here by whoever takes it over, which may be this process.
                await self._store.order(order)
                await self._ended_within(stream, CANCEL_AGAIN_S)
                self._check_open()
        return await self.status(order.stream, owner)

    async def _running(self, stream_id: str, owner: str) -> Stream:
        self._check_open()
        stream = await self._find(stream_id, owner)
        check_running(stream.ending is None)
        return stream

    # Streams that another process drives, or did.

    async def _find(self, stream_id: str, owner: str) -> Stream:
        """The stream, followed from the store if it is not produced here."""
        stream = self._producer.streams.get(stream_id) or self._followed.get(stream_id)
        if stream is not None and stream.record.owner == owner:
            return stream
        record = await self._store.record(stream_id, owner)
        model = await self._loaded(record)
        excerpt = await self._store.read(stream_id, [0] * record.request.n)
        stream = self._producer.streams.get(stream_id) or self._followed.get(stream_id)
        if stream is None:
            stream = self._stream(record, model, excerpt)
            if stream.ending is None:
                self._follow_soon(stream)
        return stream

    def _follow_soon(self, stream: Stream) -> None:
        """Another process drives the stream: its readers here follow the store."""
        if not self._closing:
            self._followed[stream.id] = stream
            self._spawn(self._follow(stream))

    async def _follow(self, stream: Stream) -> None:
        """Feeds the stream from the store while another process drives it, and takes it over when that process is gone.

        Readers are cut off when the store does not answer for long: it may know more of the stream than is known here.
        """
        try:
            await self._follow_store(stream)
        except StoreUnavailable as error:
            logger.warning("the stream %s can't be followed: %s", stream.id, error.message)
            stream.cut()
        except ServiceError as error:
            stream.fail(error)
        finally:
            if self._followed.get(stream.id) is stream:
                del self._followed[stream.id]

    async def _follow_store(self, stream: Stream) -> None:
        deserted_s = failing_s = 0.0
        while stream.ending is None and deserted_s < WATCHED_S and not stream.was_cut:
            try:
                excerpt = await self._store.read(stream.id, stream.counts, FOLLOW_WAIT_S)
                stream.absorb(excerpt)
                if excerpt.orphaned and not stream.was_cut and await self._take(stream):
                    return
            except (StoreUnavailable, StreamNotFound, StreamExpired):
                if stream.produced_here or failing_s >= STORE_PATIENCE_S:
                    raise
                failing_s += RETRY_S
                await self._clock.sleep(RETRY_S)
                continue
            failing_s = 0.0
            deserted_s = 0.0 if stream.readers else deserted_s + FOLLOW_WAIT_S

    async def _take(self, stream: Stream) -> bool:
        """Takes the lease of a stream whose producer is gone, and drives it to its end. False when another was faster."""
        model = await self._loaded(stream.record)
        epoch = await self._store.take(stream.id, self._ingress)
        if epoch is None:
            return False
        self._followed.pop(stream.id, None)
        self._producer.own(stream, epoch, stream.counts)
        with self._permit(stream.record.owner, model, stream.request.n, accepted=True):
            await self._producer.drive(stream, model)
        await self._producer.conclude(stream)
        return True

    def _adopt_soon(self, stream_id: str) -> None:
        if not self._closing:
            self._spawn(self._adopt(stream_id))

    async def _adopt(self, stream_id: str) -> None:
        """Takes over a stream that is to be finished without a reader."""
        try:
            record = await self._store.record(stream_id)
            excerpt = await self._store.read(stream_id, [0] * record.request.n)
            await self._take(self._stream(record, await self._loaded(record), excerpt))
        except ServiceError as error:
            logger.warning("could not adopt the stream %s: %s", stream_id, error.message)

    # Inside.

    def _model(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(
                f"The model {name!r} does not exist. GET /v1/models lists those that do.", param="model"
            )
        return model

    @contextmanager
    def _permit(self, owner: str, model: Model, sequences: int, *, accepted: bool = False) -> Iterator[None]:
        """A place in the owner's quota and in the model, held as long as the stream runs here.

        Without a key there is no quota: where keys are needed, that is code inside the cluster.
        """
        counted = self._quota if owner != NOBODY else None
        quota = counted.permit(owner, accepted=accepted) if counted else nullcontext()
        with quota, model.admission.permit(sequences, model.generator.capacity, accepted=accepted):
            yield

    async def _loaded(self, record: StreamRecord) -> Model:
        model = self._model(record.request.model)
        await model.load()
        return model

    def _stream(self, record: StreamRecord, model: Model, excerpt: Excerpt | None = None) -> Stream:
        """A stream from its record, with what the store has of it."""
        age_s = self._clock.time() - record.created_s
        stream = Stream(
            record,
            model.choices(record.request, record.prompt),
            began_s=self._clock.monotonic() - age_s,
            clock=self._clock,
            window_tokens=self.settings.streams.reader_window_tokens,
            on_changed=self._producer.recorder.changed,
            on_left=self._left,
        )
        if excerpt is not None:
            stream.absorb(excerpt)
        return stream

    async def _ended_within(self, stream: Stream, duration_s: float) -> None:
        """Returns when the stream has ended, at the latest after `duration_s`."""
        waits = [
            asyncio.ensure_future(stream.ended()),
            asyncio.ensure_future(self._clock.sleep(duration_s)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _left(self, stream: Stream) -> None:
        """A reader has left, of itself or because this process stops."""
        if not self._closing:
            self._audience.left(stream)

    def _check_open(self) -> None:
        if self._closing:
            raise draining()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _refuse(error: ServiceError, opening: _Opening) -> None:
    """Tells the caller of `start`, unless it has its stream: whatever comes after that is told to the readers."""
    if not opening.stream.done():
        opening.stream.set_exception(error)
