"""The fields that the native body and the OpenAI bodies share, with their ranges, and the rules between fields.

This is the only place where a range is written down. Types are strict: a string is no number, a boolean is no integer; an
integer is a number. `null` means the same as leaving the field out.
"""

from __future__ import annotations

import re
from typing import Annotated, LiteralString

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.errors import InvalidRequest
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest, Message, OnDisconnect
from app.schema.response_format import ResponseFormat
from app.schema.sampling import MAX_LOGPROBS, SamplingDefaults, SamplingParams
from app.settings import LimitsSettings

MAX_CHOICES = 32
MAX_STOP_STRINGS = 256
MAX_STOP_STRING_LENGTH = 1024
MAX_STOP_TOKEN_IDS = 64
MAX_BIASED_TOKENS = 1024
# Below this a temperature only overflows the logits: it means greedy, as it does elsewhere.
GREEDY_BELOW_TEMPERATURE = 1e-5

# Less than the likeliest token of any vocabulary has.
LEAST_TOP_P = 1e-9
# More than any context has. Clients write larger numbers for "no limit", also such that no message of the graph can hold.
MANY_TOKENS = 2**31 - 1

FIELD_ERROR = "field_error"


def field_error(complaint: LiteralString, **context: object) -> PydanticCustomError:
    """An own check's error. `complaint` ends a sentence that begins with the field's name, or with that of `field` in it."""
    return PydanticCustomError(FIELD_ERROR, complaint, context)


ModelName = Annotated[str, Field(min_length=1, max_length=128)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
# The first bad id ends the check: a report of each of half a million would hold up every stream for seconds.
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def refuse_unknown(model: type[BaseModel], value: object) -> None:
    """Refuses at the first field that `model` does not have, for the same reason."""
    if isinstance(value, dict):
        for name in value:
            if name not in model.model_fields:
                raise field_error("is not a field of this request", field=name)


def _token_id_key(key: object) -> object:
    """JSON has only strings for keys, so token ids come as decimal digits."""
    if isinstance(key, str) and re.fullmatch(r"0|[1-9][0-9]{0,9}", key):
        return int(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    raise field_error("is not a token id")


def _string_list(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise field_error("must be a string or a list of strings")
    return ["" if item is None else item for item in value]


BiasedToken = Annotated[TokenId, BeforeValidator(_token_id_key)]
Bias = Annotated[float, Field(ge=-100, le=100)]


def _bounded_bias(value: object) -> object:
    """Checked before the entries are, so that a huge table costs nothing."""
    if isinstance(value, dict) and len(value) > MAX_BIASED_TOKENS:
        raise field_error("must have at most {most} entries", most=MAX_BIASED_TOKENS)
    return value


LogitBias = Annotated[dict[BiasedToken, Bias], BeforeValidator(_bounded_bias)]


def _without_empty(strings: list[str]) -> list[str]:
    """Clients send them by default, and what they would stop at is nothing."""
    return [string for string in strings if string]


StopString = Annotated[str, Field(max_length=MAX_STOP_STRING_LENGTH)]
StopStrings = Annotated[
    list[StopString],
    Field(max_length=MAX_STOP_STRINGS),
    BeforeValidator(_string_list, json_schema_input_type=str | list[str]),
    AfterValidator(_without_empty),
]


def signed_seed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed


Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1), AfterValidator(signed_seed)]
Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
MaxTokens = Annotated[int, Field(ge=1)]


class Fields(BaseModel):
    """What every body and message has in common: `null` means the same as leaving the field out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        if cls.model_config.get("extra") == "forbid":
            refuse_unknown(cls, value)
        return {key: item for key, item in value.items() if item is not None or key not in cls.model_fields}


class GenerationFields(Fields):
    """What every dialect can say about one generation."""

    model: ModelName | None = Field(
        default=None, description="A name that GET /v1/models lists. May be left out when there is one model."
    )
    min_tokens: int = Field(
        default=0, ge=0, description="No end token and no stop counts before this many tokens."
    )
    ignore_eos: bool = Field(
        default=False, description="Go on after the model's own end token, to max_tokens."
    )
    temperature: float = Field(default=1.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Sample among the likeliest tokens that add up to this. 0 is the likeliest one.",
    )
    top_k: int = Field(
        default=0, ge=-1, le=1_000_000, description="Sample among this many tokens. 0 and -1 switch it off."
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="Drop tokens less likely than this share of the likeliest."
    )
    seed: Seed | None = Field(
        default=None,
        description="Makes sampling repeatable. The server draws one if there is none. From 2^63 on it is the signed number with "
        "the same 64 bits.",
    )
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=10, description="1 switches it off.")
    logit_bias: LogitBias = Field(
        default={},
        description="Added to the logits of these token ids.",
        examples=[{"42": -100}],
    )
    stop: StopStrings = Field(
        default=[],
        description="Ends the answer before the first of these strings.",
        examples=["\n\n", ["END", "###"]],
    )
    stop_token_ids: list[TokenId] = Field(
        default=[], max_length=MAX_STOP_TOKEN_IDS, description="Each ends the answer."
    )
    n: int = Field(default=1, ge=1, le=MAX_CHOICES, description="How many answers to the same prompt.")
    return_token_ids: bool = Field(default=False, description="Send the token ids with the text.")
    response_format: ResponseFormat | None = Field(
        default=None, description="What the answer must look like. Not with ignore_eos or min_tokens."
    )
    timeout_s: float | None = Field(
        default=None, gt=0, description="The stream ends with an error after so many seconds."
    )

    def _request(
        self,
        limits: LimitsSettings,
        default_model: str | None,
        *,
        max_tokens: int | None,
        max_tokens_param: str,
        logprobs: int | None,
        on_disconnect: OnDisconnect,
        stream: bool,
        prompt: str | None = None,
        messages: tuple[Message, ...] | None = None,
        prompt_token_ids: tuple[int, ...] | None = None,
    ) -> GenerationRequest:
        """The request, after the rules that hold between fields. Raises `InvalidRequest`."""
        model = self.model or default_model
        if model is None:
            raise InvalidRequest("model is required: several models are served here.", param="model")
        self._check_limits(limits, max_tokens, max_tokens_param)
        constraint = self._constraint()
        for name in ("ignore_eos", "min_tokens"):
            if constraint is not None and getattr(self, name):
                raise InvalidRequest(
                    f"{name} can't go with {constraint.param}, which says where the answer ends.", param=name
                )
        return GenerationRequest(
            model=model,
            sampling=msgspec.structs.replace(self.sampling(max_tokens, logprobs), constraint=constraint),
            left_out=tuple(
                name for name in SamplingDefaults.__struct_fields__ if name not in self.model_fields_set
            ),
            seed=self.seed,
            prompt=prompt,
            messages=messages,
            prompt_token_ids=prompt_token_ids,
            stop=tuple(self.stop),
            n=self.n,
            return_token_ids=self.return_token_ids,
            stream=stream,
            timeout_s=self.timeout_s,
            on_disconnect=on_disconnect,
        )

    def sampling(self, max_tokens: int | None = None, logprobs: int | None = None) -> SamplingParams:
        """The sampling parameters that these fields say, with the defaults of the fields."""
        return SamplingParams(
            max_tokens=min(max_tokens or 0, MANY_TOKENS),
            min_tokens=min(self.min_tokens, MANY_TOKENS),
            ignore_eos=self.ignore_eos,
            temperature=0.0 if self.temperature < GREEDY_BELOW_TEMPERATURE else self.temperature,
            top_p=max(self.top_p, LEAST_TOP_P),
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            seed=self.seed or 0,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias,
            stop_token_ids=tuple(self.stop_token_ids),
            logprobs=logprobs,
        )

    def _constraint(self) -> Constraint | None:
        """What the answer must be, if anything is said of it. Raises `InvalidRequest`."""
        return None if self.response_format is None else self.response_format.constraint()

    def _check_limits(self, limits: LimitsSettings, max_tokens: int | None, max_tokens_param: str) -> None:
        if max_tokens is not None and self.min_tokens > max_tokens:
            raise InvalidRequest(
                f"min_tokens ({self.min_tokens}) must not be more than {max_tokens_param} ({max_tokens}).",
                param="min_tokens",
            )
        if self.timeout_s is not None and self.timeout_s > limits.request_timeout_s:
            raise InvalidRequest(
                f"timeout_s must be at most {limits.request_timeout_s:g}.", param="timeout_s"
            )
