"""A generator whose tokens the test feeds, and a tokenizer with one token per letter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from app.errors import GeneratorUnavailable, ServiceError
from app.ports import ModelCard, TokenSink
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest
from app.schema.tokens import Edit, EngineFinish, Job, Steering, TokenBatch


class FakeGeneration:
    """One accepted job. `say` feeds text to the stream as if an engine had sampled it."""

    def __init__(
        self, job: Job, sink: TokenSink, *, replica: str = "replica-1", deterministic: bool = True
    ) -> None:
        self.replica = replica
        self.deterministic = deterministic
        self.job = job
        self.sink = sink
        self.calls: list[str] = []
        self.steerings: list[Steering] = []
        self.counts = [len(ids) for ids in job.generated] or [0] * job.n

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def end(self, choice: int) -> None:
        self.calls.append(f"end {choice}")

    def steer(self, steering: Steering) -> None:
        self.steerings.append(steering)

    def put_in(self, steering: Steering, *, choice: int = 0, finish: EngineFinish | None = None) -> None:
        """Feeds what an engine does when it obeys a steering."""
        position, ids = self.counts[choice], steering.token_ids
        self.counts[choice] += len(ids)
        edits = [Edit(id=steering.id, position=position, steered=len(ids))]
        self.sink.feed(TokenBatch(self.job.key, choice, position, ids, finish, edits=edits))

    def say(self, text: str, *, choice: int = 0, finish: EngineFinish | None = None) -> None:
        """Feeds the letters of `text` as tokens in one batch."""
        ids = encode(text)
        position = self.counts[choice]
        self.counts[choice] += len(ids)
        self.sink.feed(TokenBatch(self.job.key, choice, position, ids, finish))


class FakeGenerator:
    """Implements `app.ports.Generator`. `refusal` is raised instead of accepting; with `hangs` it never answers.

    While `asleep`, those who `wake` it wait for `woken`, whose exception they get.
    """

    def __init__(self, capacity: int = 8) -> None:
        self.capacity = capacity
        self.deterministic = True
        self.refusal: ServiceError | None = None
        self.generations: list[FakeGeneration] = []
        self.replica = "replica-1"
        self.refuse_next = 0
        self.hangs = False
        self.running: set[int] = set()
        self.asleep = False
        self.woken: asyncio.Future[None] | None = None
        self.waking = 0

    async def wake(self) -> None:
        assert self.woken is not None
        self.waking += 1
        try:
            await asyncio.shield(self.woken)
            self.asleep = False
        finally:
            self.waking -= 1

    @asynccontextmanager
    async def open(self, job: Job, sink: TokenSink) -> AsyncIterator[FakeGeneration]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.refusal is not None:
            raise self.refusal
        if self.refuse_next:
            self.refuse_next -= 1
            raise GeneratorUnavailable("no replica answers")
        generation = FakeGeneration(job, sink, replica=self.replica, deterministic=self.deterministic)
        self.generations.append(generation)
        self.running.add(job.key)
        try:
            yield generation
        finally:
            self.running.discard(job.key)


class FakeTokenizer:
    """Implements `app.ports.Tokenizer` for `letters()`; `gate` lets a test hold or break `encode`."""

    def __init__(self, name: str = "letters", max_model_len_tokens: int = 64) -> None:
        self.card = ModelCard(
            name=name,
            created=1_790_000_000,
            owned_by="tests",
            max_model_len_tokens=max_model_len_tokens,
            vocab_size=128,
            tokenizer_json=letters().to_str(),
            has_chat_template=True,
            shows_tools=True,
        )
        self.refusal: ServiceError | None = None
        self.encoded: list[GenerationRequest] = []
        self.checked: list[Constraint] = []

    async def describe(self) -> ModelCard:
        return self.card

    async def encode(self, request: GenerationRequest) -> list[int]:
        if self.refusal is not None:
            raise self.refusal
        self.encoded.append(request)
        text = request.prompt
        if request.messages is not None:
            text = "".join(message.content for message in request.messages)
        return encode(text or "")

    async def check_constraint(self, constraint: Constraint) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.checked.append(constraint)

    async def encode_text(self, text: str) -> list[int]:
        if self.refusal is not None:
            raise self.refusal
        return encode(text)


def letters() -> tokenizers.Tokenizer:
    """A tokenizer whose tokens are the ASCII letters, each with its code as id."""
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({chr(code): code for code in range(128)}, unk_token="?")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]
