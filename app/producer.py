"""The producer: generates the streams that this process has the lease of, from the request to the last frame.

`Producer._live` is the main flow. There is one way to recover, whatever was lost: a further attempt, from the request and the
tokens so far. A stream that was accepted is never given up because there is no room. `app.recovery` says when it is given up.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext

import msgspec

from app.admission import Quota
from app.auth import NOBODY
from app.backoff import Backoff
from app.context import check_vocabulary, fit_sampling, truncated
from app.errors import (
    GeneratorUnavailable,
    InternalError,
    Overloaded,
    RequestTimeout,
    ServiceError,
    draining,
)
from app.model import Model
from app.models import Models
from app.ports import Clock, Generation
from app.recovery import Recovery, Trial, Trials
from app.schema.requests import GenerationRequest
from app.schema.sampling import drawn_seed
from app.settings import Settings
from app.streams.audience import Audience
from app.streams.recorder import Recorder
from app.streams.store import Excerpt, Idempotency, Order, StreamRecord, StreamStore
from app.streams.stream import Stream
from app.tasks import Tasks
from app.text.call_grammar import after_reasoning, forced_calls
from app.text.vocabulary import vocabulary_of

logger = logging.getLogger(__name__)

ORDERS_RETRY_S = 0.25
ORDERS_WAIT_S = 1.0
MAX_EARLY_ORDERS = 100
LOST = "the stream %s has lost the generator replica %s"


class StartedBefore(Exception):
    """The idempotency key of a request stands for the stream with this id."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(stream_id)
        self.stream_id = stream_id


class Opening:
    """What a caller of `Producer.start` waits for: its stream, or the error that prevents it.

    `announced`: the stream store may know the stream, so it must be generated even if the caller has left.
    """

    def __init__(self) -> None:
        self.announced = False
        self.abandoned = False
        self._stream: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()

    @property
    def stream(self) -> Stream | None:
        """The stream, once the caller can have it."""
        opened = self._stream.done() and self._stream.exception() is None
        return self._stream.result() if opened else None

    async def wait(self) -> Stream:
        """The stream. Raises what prevents it. Cancelling the wait cancels nothing else."""
        return await asyncio.shield(self._stream)

    def succeed(self, stream: Stream) -> None:
        self._stream.set_result(stream)

    def fail(self, error: Exception) -> None:
        """Does nothing when the caller has its stream: its readers see later errors."""
        if not self._stream.done():
            self._stream.set_exception(error)
            self._stream.exception()  # a caller that has left does not retrieve it


class Producer:
    """`streams` are those that the process `name` has the lease of. It records them and carries out the stream store's orders.

    `on_taken_over` is called with a stream that another process produces from now on. `store_answers` says whether the store did
    when it was last asked for orders.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        store: StreamStore,
        *,
        name: str,
        clock: Clock,
        tasks: Tasks,
        on_taken_over: Callable[[Stream], None],
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.store_answers = False
        self.audience = Audience(settings.streams, store, name=name, clock=clock, tasks=tasks)
        self.recorder = Recorder(store, name, clock, on_stale=self._give_up)
        self._settings = settings
        self._models = models
        self._store = store
        self._name = name
        self._clock = clock
        self._tasks = tasks
        self._on_taken_over = on_taken_over
        # Without keys one caller can look like many, and all callers without a key look like one.
        self._quota = Quota(settings.limits.max_streams_per_key) if settings.auth.keys_file else None
        self._job_keys = itertools.count(1)
        self._trials: defaultdict[str, Trials] = defaultdict(Trials)
        # Orders for streams that are not produced here, or not yet: an order may come before the answer that gives the lease.
        self._early: deque[Order] = deque(maxlen=MAX_EARLY_ORDERS)

    async def start(self, request: GenerationRequest, owner: str, idempotency: Idempotency | None) -> Stream:
        """Starts a stream; returns it when a generator has accepted it and the stream store has its record.

        Where a first replica must start, no generator has accepted it yet. Raises the `ServiceError` that prevents it, or
        `StartedBefore`. A caller that is cancelled leaves nothing, or a stream that its last reader has left.
        """
        opening = Opening()
        life = self._tasks.start(self._live(request, owner, idempotency, opening))
        life.add_done_callback(lambda _: opening.fail(draining()))
        try:
            return await opening.wait()
        except asyncio.CancelledError:
            opening.abandoned = True
            if not opening.announced:
                life.cancel()
            elif opening.stream is not None:
                self.audience.left(opening.stream)
            raise

    def check_room(self, requests: Sequence[GenerationRequest], owner: str) -> None:
        """Raises what refuses streams of one model now, if all were started. What another request takes meanwhile is not held."""
        model = self._models.named(requests[0].model)
        with self._reserved(owner, model, sum(request.n for request in requests), streams=len(requests)):
            pass

    async def _live(
        self, request: GenerationRequest, owner: str, idempotency: Idempotency | None, opening: Opening
    ) -> None:
        """The life of a stream. Raises nothing: until the announcement an error goes to `opening`, later into the stream."""
        try:
            model = self._models.named(request.model)
            with self._reserved(owner, model, request.n):
                record = await self._encoded(request, owner, model)
                stream = self.stream_of(record, model)
                async with self._errors_end(stream):
                    replica = None
                    if model.generator.asleep:
                        # The caller gets its stream, so that its readers get heartbeats while the replica starts.
                        await self._announce(stream, idempotency, opening)
                    else:
                        async with self._attempt(stream, model) as generation:
                            replica = generation.replica
                            stream.begin(deterministic=generation.deterministic)
                            await self._announce(stream, idempotency, opening)
                            await stream.settled()
                    await self._further_attempts(stream, model, lost=replica)
            await self._conclude(stream)
        except (ServiceError, StartedBefore) as error:
            opening.fail(error)
        except Exception:
            logger.exception("a request failed before its stream began")
            opening.fail(InternalError("The server failed to handle the request."))

    @contextmanager
    def _reserved(
        self, owner: str, model: Model, sequences: int, *, streams: int = 1, accepted: bool = False
    ) -> Iterator[None]:
        """Places for `streams` in the owner's quota, and for `sequences` in the model.

        Raises `TooManyStreams` and `Overloaded`, but not when `accepted`.

        A stream without an owner has no quota: where keys are needed, its caller is code in the cluster.
        """
        counted = self._quota if owner != NOBODY else None
        quota = counted.permit(owner, streams, accepted=accepted) if counted else nullcontext()
        with quota, model.admission.permit(sequences, model.generator.capacity, accepted=accepted):
            yield

    async def _encoded(self, request: GenerationRequest, owner: str, model: Model) -> StreamRecord:
        """The record of a new stream, with its prompt as tokens and its seed."""
        card = await model.load()
        check_vocabulary(request, card)
        created_s = self._clock.time()
        given = truncated(list(request.prompt_token_ids or ()), request, card)
        forced = forced_calls(request, card, vocabulary_of(model.vocabulary))
        if forced is not None:
            # An answer that is nothing but calls has no content that something else could be asked of.
            sampling = msgspec.structs.replace(request.sampling, constraint=forced)
            request = msgspec.structs.replace(request, sampling=sampling)
        if (constraint := request.sampling.constraint) is not None:
            await model.tokenizer.check_constraint(constraint)
        prompt = given or await model.tokenizer.encode(request)
        if constraint is not None and forced is None and request.messages is not None:
            constraint = after_reasoning(
                constraint, model.end_of_reasoning(prompt), vocabulary_of(model.vocabulary)
            )
            sampling = msgspec.structs.replace(request.sampling, constraint=constraint)
            request = msgspec.structs.replace(request, sampling=sampling)
        seed = drawn_seed() if request.seed is None else request.seed
        return StreamRecord(
            id=f"st_{secrets.token_hex(16)}",
            owner=owner,
            # What follows needs the tokens only. The text can be as large as a body.
            request=msgspec.structs.replace(
                request,
                prompt=None,
                messages=None,
                prompt_token_ids=None,
                chat_template_kwargs={},
                tools=tuple(msgspec.structs.replace(tool, description="") for tool in request.tools),
                sampling=msgspec.structs.replace(request.sampling, constraint=None),
            ),
            prompt=prompt,
            sampling=fit_sampling(request, prompt, seed, card, self._settings.limits),
            created_s=created_s,
            parsed=request.messages is not None and card.response_template is not None,
        )

    def stream_of(self, record: StreamRecord, model: Model, excerpt: Excerpt | None = None) -> Stream:
        """A stream from its record, with what the store has of it. The model must be loaded."""
        age_s = self._clock.time() - record.created_s
        stream = Stream(
            record,
            model.choices(record),
            began_s=self._clock.monotonic() - age_s,
            clock=self._clock,
            window_tokens=self._settings.streams.reader_window_tokens,
            on_changed=self.recorder.changed,
            on_left=self.audience.left,
        )
        if excerpt is not None:
            stream.absorb(excerpt)
        return stream

    @asynccontextmanager
    async def _errors_end(self, stream: Stream) -> AsyncIterator[None]:
        """Within the stream's time limit. An error ends a stream that is produced here; before that it is raised."""
        try:
            async with asyncio.timeout(stream.request.timeout_s or self._settings.limits.request_timeout_s):
                yield
        except Exception as error:
            if isinstance(error, TimeoutError):
                error = RequestTimeout("The stream did not end within its time limit.")
            if not stream.produced_here:
                raise error from None
            if not isinstance(error, ServiceError):
                logger.exception("the generation of the stream %s failed", stream.id)
                error = InternalError("The server failed to generate this stream.")
            stream.fail(error)

    @asynccontextmanager
    async def _attempt(
        self, stream: Stream, model: Model, trial: Trial | None = None
    ) -> AsyncIterator[Generation]:
        """An attempt that a generator has accepted: it generates from the tokens so far. Raises as `Generator.open` does.

        A `trial` takes the tokens on their way to the stream.
        """
        job = stream.job(self._name, next(self._job_keys))
        if trial is not None and not stream.readers.paused:
            job = msgspec.structs.replace(job, on_trial=True)
        elif trial is not None:
            trial.end()  # it will not be computed for now
        async with model.generator.open(job, trial or stream) as generation:
            stream.accept(generation)
            yield generation

    async def _announce(self, stream: Stream, idempotency: Idempotency | None, opening: Opening) -> None:
        """Puts the record into the stream store, takes the lease, and gives the caller its stream. Raises `StartedBefore`."""
        opening.announced = True
        first = await self._store.create(stream.record, self._name, idempotency)
        if first != stream.id:
            raise StartedBefore(first)
        self.audience.expect(stream)
        self._own(stream, epoch=1, stored=[0] * stream.request.n)
        opening.succeed(stream)
        if opening.abandoned:
            self.audience.left(stream)

    async def _further_attempts(self, stream: Stream, model: Model, *, lost: str | None) -> None:
        """Attempts until the stream has its ending, or another process the lease. `lost` is the replica of an attempt before.

        Raises what `Recovery` raises.
        """
        recovery = Recovery(self._settings.streams, self._clock)
        trials = self._trials[stream.request.model]
        if lost is not None and stream.goes_on():
            logger.warning(LOST, stream.id, lost)
            pause_s = recovery.lost(lost, tokens=any(stream.counts), on_trial=False)
            await _pause(stream, self._clock.sleep(pause_s))
        while stream.goes_on():
            if model.generator.asleep:
                await _pause(stream, model.generator.wake())
                continue
            if recovery.suspected and trials.running is not None:
                await _pause(stream, trials.running.over.wait())
                continue
            counts = stream.counts
            lost = failure = None
            with trials.turn(stream) if recovery.suspected else nullcontext() as trial:
                try:
                    async with self._attempt(stream, model, trial) as generation:
                        lost = generation.replica
                        await stream.settled()
                except (GeneratorUnavailable, Overloaded) as error:
                    failure = error
                    if isinstance(error, GeneratorUnavailable):
                        lost = error.lost_replica
                on_trial = trial is not None and not trial.over.is_set()
            if not stream.goes_on():
                break
            if lost is not None:
                logger.warning(LOST, stream.id, lost)
                pause_s = recovery.lost(lost, tokens=stream.counts != counts, on_trial=on_trial)
            elif failure is not None:
                pause_s = recovery.refused(failure)
            await _pause(stream, self._clock.sleep(pause_s))

    async def _conclude(self, stream: Stream) -> None:
        """Returns when the stream store has the ending. From then on readers are served from there."""
        await self.recorder.flush(stream)
        if self.streams.get(stream.id) is stream:
            del self.streams[stream.id]

    # Streams that another process produced.

    async def take(self, stream: Stream) -> bool:
        """Takes the lease of a stream whose producer is gone; `finish` is next. False when another process was faster."""
        await self._models.loaded(stream.request.model)
        epoch = await self._store.take(stream.id, self._name)
        if epoch is not None:
            self._own(stream, epoch, stream.counts)
        return epoch is not None

    async def finish(self, stream: Stream) -> None:
        """Generates the rest of a stream that was taken."""
        model = self._models.named(stream.request.model)
        with self._reserved(stream.record.owner, model, stream.request.n, accepted=True):
            async with self._errors_end(stream):
                await self._further_attempts(stream, model, lost=None)
        await self._conclude(stream)

    async def _adopt(self, stream_id: str) -> None:
        """Finishes a stream that goes on without a reader."""
        try:
            record = await self._store.record(stream_id)
            excerpt = await self._store.read(stream_id, [0] * record.request.n)
            model = await self._models.loaded(record.request.model)
            stream = self.stream_of(record, model, excerpt)
            if await self.take(stream):
                await self.finish(stream)
        except ServiceError as error:
            logger.warning("the stream %s could not be adopted: %s", stream_id, error.message)

    def _own(self, stream: Stream, epoch: int, stored: list[int]) -> None:
        """This process has the lease; the store has the first `stored` tokens of the choices."""
        self.streams[stream.id] = stream
        self.recorder.start(stream, epoch, stored)
        stream.produce_here(taken_over=epoch > 1)
        for order in [order for order in self._early if order.stream == stream.id]:
            self._early.remove(order)
            self.obey(order)

    def _give_up(self, stream: Stream) -> None:
        """Another process has the lease.

        The tokens of the stream stay true, unless it was changed here and the store does not know. Then its readers, who have
        seen nothing of the change, are cut off.
        """
        self.streams.pop(stream.id, None)
        stream.produce_elsewhere()
        if stream.changes.barrier is None:
            self._on_taken_over(stream)
        else:
            stream.readers.cut_off()

    # Orders.

    async def keep_leases(self) -> None:
        """Renews the lease of this process and carries out the store's orders, until cancelled."""
        backoff = Backoff(ORDERS_RETRY_S, sleep=self._clock.sleep)
        while True:
            try:
                # At first, and after a failure, the answer itself is the news.
                orders = await self._store.renew(self._name, ORDERS_WAIT_S if self.store_answers else 0.0)
                self.store_answers = True
                for order in orders:
                    if order.action == "tell":
                        await self.recorder.tell()
                    else:
                        self.obey(order)
            except ServiceError as error:
                self.store_answers = False
                logger.warning("the stream store gives no orders: %s", error.message)
                await backoff.pause()

    def obey(self, order: Order) -> None:
        """Carries out an order, once the stream is produced here. An order that was carried out before does nothing."""
        stream = self.streams.get(order.stream)
        if order.action == "adopt":
            if not self._tasks.closed:
                self._tasks.start(self._adopt(order.stream))
        elif stream is None:
            self._early.append(order)
        elif order.change is not None:
            stream.change(order.change)
        else:
            stream.cancel("stop" if order.action == "stop" else "cancelled")


async def _pause(stream: Stream, wait: Coroutine[object, object, object]) -> None:
    """Returns after `wait`, or as soon as the stream needs no further attempt. Raises what `wait` raises."""
    waits = [asyncio.ensure_future(wait), asyncio.ensure_future(stream.settled())]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
