"""What the service needs of the world, as protocols: a tokenizer, generators, a clock.

The deployments implement them over Ray; the tests have fakes, and each port has a contract suite that runs on both.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingDefaults
from app.schema.tokens import Job, Steering, TokenBatch

CALLS_FIELD = "tool_calls"
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What the ingress must know of a model to validate for it and to write its text.

    `tokenizer_json` is the serialised `tokenizers.Tokenizer`; `created` is Unix seconds. `shows_tools`: the chat template shows
    the model the tools of a request. `sampling_defaults` stand for what a request leaves out. `structured_output`: constraints
    are honoured. `deterministic` is that of the generators, which the tokenizer does not know. `response_template` says how the
    model writes reasoning and tool calls, in the format of transformers.
    """

    name: str
    created: int
    owned_by: str
    max_model_len_tokens: int
    vocab_size: int
    tokenizer_json: str
    has_chat_template: bool
    shows_tools: bool = False
    sampling_defaults: SamplingDefaults = SamplingDefaults()
    structured_output: bool = False
    deterministic: bool = False
    response_template: dict[str, Any] | None = None

    @property
    def calls_tools(self) -> bool:
        """Whether the model is shown tools, and its calls are found in its output."""
        fields = self.response_template["fields"] if self.response_template is not None else ()
        return self.shows_tools and CALLS_FIELD in fields

    @property
    def reasons(self) -> bool:
        """Whether reasoning is found in the model's output."""
        fields = self.response_template["fields"] if self.response_template is not None else ()
        return any(field in fields for field in REASONING_FIELDS)


class Tokenizer(Protocol):
    """Turns prompts of one model into token ids."""

    async def describe(self) -> ModelCard:
        """The card of the model. Raises `GeneratorUnavailable` while no replica can answer."""
        ...

    async def encode(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids, special tokens included.

        Raises `InvalidRequest` for what the model's template refuses, `Overloaded` and `GeneratorUnavailable`.
        """
        ...

    async def encode_text(self, text: str) -> list[int]:
        """The ids of a piece of text as it stands: no special tokens are added, and the names of such are plain text.

        Raises `PromptTooLong` for text that can't possibly fit, `Overloaded` and `GeneratorUnavailable`.
        """
        ...

    async def check_constraint(self, constraint: Constraint) -> None:
        """Returns when the constraint is known to be one that can be kept. Only for a model with `structured_output`.

        Raises `InvalidRequest` for any other, `Overloaded` and `GeneratorUnavailable`.
        """
        ...


class TokenSink(Protocol):
    """Takes the tokens of one job. Called on the event loop, synchronously, in order, and never after the end."""

    def feed(self, batch: TokenBatch) -> None: ...

    def lost(self) -> None:
        """The replica that generates is gone; nothing more will come from it."""
        ...


class Generation(Protocol):
    """A job that a generator replica has accepted."""

    @property
    def replica(self) -> str: ...

    @property
    def deterministic(self) -> bool:
        """Whether the replica makes the same tokens from the same job, whatever else it computes."""
        ...

    def pause(self) -> None:
        """Asks the engine to leave the sequences out of its batch. Tokens that were sent may still arrive. Returns at once."""
        ...

    def resume(self) -> None:
        """Takes `pause` back. Returns at once."""
        ...

    def end(self, choice: int) -> None:
        """Has the engine stop with a choice, which frees its place and its memory. Returns at once.

        Tokens that were sent may still arrive, and an ending. Does nothing for a choice that the engine has ended.
        """
        ...

    def steer(self, steering: Steering) -> None:
        """Has the engine put tokens into every unfinished choice, once for each id. Returns at once.

        They come back to the sink like the engine's own, in a batch with an `Edit`. In what order several are applied is
        the order of the calls. None is lost while the replica lives.
        """
        ...


class Generator(Protocol):
    """The replicas that generate for one model."""

    @property
    def capacity(self) -> int:
        """Sequences that all known replicas together can run or hold waiting, or the first one that is started; 0 while there is
        none.
        """
        ...

    @property
    def asleep(self) -> bool:
        """Whether there is no replica because nobody needed one. `wake` starts one."""
        ...

    async def wake(self) -> None:
        """Has a replica started, and returns when it takes jobs. Only for a generator that may be asleep.

        Raises `GeneratorUnavailable` when that takes too long.
        """
        ...

    @property
    def deterministic(self) -> bool:
        """Whether all known replicas are; when none is known any more, what was last known. False at first."""
        ...

    def open(self, job: Job, sink: TokenSink) -> AbstractAsyncContextManager[Generation]:
        """Starts `job`; entering returns when a replica has accepted it, leaving frees its place in the engine.

        Tokens may reach `sink` before entering returns. Entering raises `Overloaded`, `InvalidRequest` or `GeneratorUnavailable`,
        with `lost_replica` if a replica that may have had the job is lost. Cancelling at any point frees the place as leaving
        does.
        """
        ...


class Clock(Protocol):
    def time(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    async def sleep(self, duration_s: float) -> None: ...
