"""The service: takes a validated request, starts its stream, and sees to it that the stream ends.

`GenerationService._live` is the main flow, the whole life of a stream. Everything that can fail before the first frame fails
there with its status; after that every failure is a frame. A stream lives in a task of its own, so that it can outlive the
connection that asked for it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Coroutine, Mapping
from typing import Any

from app.clock import SystemClock
from app.context import check_vocabulary, fit_sampling
from app.errors import Draining, InternalError, ModelNotFound, RequestTimeout, ServiceError
from app.model import Model
from app.ports import Clock, ModelCard
from app.schema.requests import GenerationRequest
from app.schema.tokens import Job
from app.settings import Settings
from app.streams.stream import Stream

logger = logging.getLogger(__name__)


class GenerationService:
    """Streams of the configured models. `ingress` names this process to the generators."""

    def __init__(
        self, settings: Settings, models: Mapping[str, Model], *, ingress: str, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self._models = models
        self._ingress = ingress
        self._clock = clock or SystemClock()
        self._keys = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, request: GenerationRequest) -> Stream:
        """Starts a stream; returns it when a generator has accepted it.

        Raises the `ServiceError` that prevents it. A caller that is cancelled meanwhile leaves nothing behind.
        """
        opened: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        life = self._spawn(self._live(request, opened))
        try:
            return await opened
        except asyncio.CancelledError:
            life.cancel()
            raise

    async def _live(self, request: GenerationRequest, opened: asyncio.Future[Stream]) -> None:
        """The life of a stream: admitted, encoded, generated, ended. Never raises; `opened` gets the stream or the error."""
        stream: Stream | None = None
        try:
            model = self._model(request.model)
            began_s = self._clock.monotonic()
            with model.admission.permit(request.n, model.generator.capacity):
                card = await model.load()
                check_vocabulary(request, card)
                prompt = list(request.prompt_token_ids or ()) or await model.tokenizer.encode(request)
                seed = secrets.randbits(53) if request.seed is None else request.seed
                sampling = fit_sampling(request, prompt, seed, card, self.settings.limits)
                job = Job(
                    ingress=self._ingress, key=next(self._keys), prompt=prompt, sampling=sampling, n=request.n
                )
                stream = self._stream(request, model, prompt, seed, began_s)
                async with asyncio.timeout(request.timeout_s or self.settings.limits.request_timeout_s):
                    async with model.generator.open(job, stream) as generation:
                        stream.accept(generation)
                        opened.set_result(stream)
                        await stream.ended()
        except ServiceError as error:
            _refuse(error, stream, opened)
        except TimeoutError:
            _refuse(RequestTimeout("The stream did not end within its time limit."), stream, opened)
        except asyncio.CancelledError:
            _refuse(Draining("The server is shutting down."), stream, opened)
        except Exception:
            logger.exception("a stream broke")
            _refuse(InternalError("The server failed to handle the request."), stream, opened)

    async def load(self) -> None:
        """Learns what the models are, so that the first request need not wait for it. Raises `GeneratorUnavailable`."""
        for model in self._models.values():
            await model.load()

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
        """Whether a stream of every model could start."""
        return all(model.ready for model in self._models.values())

    async def close(self) -> None:
        """Ends every stream and waits until all are gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _model(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(
                f"The model {name!r} does not exist. GET /v1/models lists those that do.", param="model"
            )
        return model

    def _stream(
        self, request: GenerationRequest, model: Model, prompt: list[int], seed: int, began_s: float
    ) -> Stream:
        return Stream(
            f"st_{secrets.token_hex(16)}",
            request,
            seed=seed,
            prompt_tokens=len(prompt),
            choices=model.choices(request, prompt),
            began_s=began_s,
            clock=self._clock,
            window_tokens=self.settings.streams.reader_window_tokens,
            on_deserted=self._deserted,
        )

    def _deserted(self, stream: Stream) -> None:
        """The last reader of a stream has left before its end: the request said what becomes of it."""
        if stream.request.on_disconnect == "cancel":
            stream.cancel()
        elif stream.request.on_disconnect == "grace":
            self._spawn(self._cancel_after_grace(stream))

    async def _cancel_after_grace(self, stream: Stream) -> None:
        await self._clock.sleep(self.settings.streams.grace_s)
        if not stream.has_readers:
            stream.cancel()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _refuse(error: ServiceError, stream: Stream | None, opened: asyncio.Future[Stream]) -> None:
    """Tells whoever listens: the caller of `start` before acceptance, the readers after it."""
    if stream is not None:
        stream.fail(error)
    if not opened.done():
        opened.set_exception(error)
