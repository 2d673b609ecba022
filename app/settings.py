"""The settings of an application: the `args` of its entry in `serve_config.yaml`, validated.

Unknown keys are refused. Units are in the names. Every queue's bound is here.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
DelaySeconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MIB = 1024 * 1024
ToolParser = Literal[
    "hermes", "qwen3_coder", "glm", "llama3_json", "mistral", "deepseek", "kimi", "gpt_oss", "think", "none"
]
ReasoningField = Literal["reasoning_content", "reasoning", "both"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def context_tokens(model_tokens: int | None, max_model_len_tokens: int | None, kv_cache_tokens: int) -> int:
    """The context of a model that takes `model_tokens` by itself (None: it doesn't say).

    What is configured only lowers it, and one sequence always has room in the memory.
    """
    return min(bound for bound in (model_tokens, max_model_len_tokens, kv_cache_tokens) if bound is not None)


class SimulatedSettings(_Section):
    """The pace of `engine: simulated`: seconds from admission to the first token, and between tokens."""

    first_token_s: Seconds = 0.02
    step_s: Seconds = 0.02


class ModelSettings(_Section):
    """One model: where it is, how it runs, how many replicas serve it.

    `max_model_len_tokens`: of prompt and answer together; None is what the model takes, or `kv_cache_tokens` if that is less.
    `prefill_chunk_ms`: the time for which one step reads prompts, while the running streams wait; `prefill_chunk_tokens` bounds
    it. `accept_timeout_s`: a replica that has not taken a job by then is passed over. `step_timeout_s`: a replica whose engine
    makes no progress for longer, not by one layer of a step, is unhealthy. With `min_replicas: 0` there may be no replica; a
    request then waits up to `start_timeout_s` for one. The number of replicas grows when more have been wanted for
    `upscale_delay_s`, and shrinks when fewer have been for `downscale_delay_s`. `threads`: those of the CPU in each replica;
    auto is the cores of the machine shared among the generator replicas, and 1 for a small model. `sampling_defaults`: whether
    requests get what they leave out from the model's generation_config.json. `control_tokens_in_messages`: whether names of
    control tokens in the content of a message are plain text or those tokens. `tool_parser`: the format in which the model writes
    reasoning and tool calls; null is the model's own, or the one that its chat template shows. `batch_invariant`: texts don't
    depend on what else is computed, which costs small models on a CPU some speed. `on_divergence`: what becomes of a stream when
    its new replica would have chosen another token than one that was sent.
    """

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] = (
        "storyteller"
    )
    path: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    engine: Literal["transformers", "simulated"] = "transformers"
    simulated: SimulatedSettings = SimulatedSettings()
    sampling_defaults: Literal["model", "none"] = "model"
    control_tokens_in_messages: Literal["text", "parse"] = "text"
    tool_parser: ToolParser | None = None
    max_model_len_tokens: PositiveInt | None = None
    max_running_sequences: PositiveInt = 32
    max_waiting_sequences: PositiveInt = 64
    kv_cache_tokens: PositiveInt = 65536
    prefill_chunk_tokens: PositiveInt = 512
    prefill_chunk_ms: PositiveInt = 150
    batch_invariant: bool = True
    on_divergence: Literal["continue", "fail"] = "continue"
    accept_timeout_s: Seconds = 3
    step_timeout_s: Seconds = 3
    threads: Literal["auto"] | PositiveInt = "auto"
    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: PositiveInt = 2
    start_timeout_s: Seconds = 300
    upscale_delay_s: DelaySeconds = 10
    downscale_delay_s: DelaySeconds = 300
    cpus_per_replica: Annotated[float, Field(gt=0)] = 1.0
    gpus_per_replica: Annotated[float, Field(gt=0)] = 1.0
    tokenizer_replicas: PositiveInt = 1

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSettings":
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas ({self.max_replicas}) is below min_replicas ({self.min_replicas})"
            )
        if self.max_model_len_tokens is not None and self.kv_cache_tokens < self.max_model_len_tokens:
            raise ValueError(
                f"kv_cache_tokens ({self.kv_cache_tokens}) can't hold one sequence of max_model_len_tokens "
                f"({self.max_model_len_tokens})"
            )
        return self

    @property
    def sequences_per_replica(self) -> int:
        """Sequences that one replica takes, running and waiting."""
        return self.max_running_sequences + self.max_waiting_sequences


Origin = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*|null|[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+)$", max_length=256, to_lower=True
    ),
]


class IngressSettings(_Section):
    """`allowed_origins`: web pages that may call over HTTP (CORS) and WebSocket besides the server's own, as `scheme://host[:port]`,
    or `*`. `max_websockets` are open in one process. `reasoning_field`: in which field the OpenAI dialect has the reasoning of a
    model.
    """

    replicas: PositiveInt = 1
    allowed_origins: list[Origin] = []
    reasoning_field: ReasoningField = "reasoning_content"
    max_websockets: PositiveInt = 1024


class StreamsSettings(_Section):
    """How long streams are kept and how silence is treated.

    `stall_timeout_s`: a generator replica whose channel is silent for so long is lost to its streams. `lease_s`: an ingress
    process that the stream store has not heard of for so long loses its streams to others. `replica_wait_s`: a stream that has
    lost its replica waits so long for another one.
    """

    backend: Literal["memory", "redis"] = "memory"
    redis_url: str | None = None
    retention_s: Seconds = 600
    grace_s: Seconds = 30
    heartbeat_s: Seconds = 10
    stall_timeout_s: Seconds = 3
    replica_wait_s: Seconds = 8
    max_lost_replicas: PositiveInt = 5
    lease_s: Seconds = 3
    reader_window_tokens: PositiveInt = 256
    max_readers: PositiveInt = 8
    max_streams: PositiveInt = 10_000
    max_tokens: PositiveInt = 20_000_000

    @model_validator(mode="after")
    def _backend_has_its_address(self) -> "StreamsSettings":
        if self.backend == "redis" and not self.redis_url:
            raise ValueError(
                "streams.backend: redis needs streams.redis_url (redis://, rediss:// or unix://)"
            )
        if self.backend == "memory" and self.redis_url is not None:
            raise ValueError("streams.redis_url is set, but streams.backend is memory")
        return self


class LimitsSettings(_Section):
    """What one request may ask for, and how long a reader may stand still.

    `max_body_bytes`: of one HTTP request. `max_held_body_bytes`: of all those that one process holds before their streams have
    begun. `max_message_bytes`: of one WebSocket or gRPC message. `max_prompt_tokens` and `max_output_tokens`: None is what the
    model's context allows.
    """

    max_body_bytes: PositiveInt = 32 * MIB
    max_held_body_bytes: PositiveInt = 256 * MIB
    max_message_bytes: PositiveInt = 4 * MIB
    max_prompt_tokens: PositiveInt | None = None
    max_output_tokens: PositiveInt | None = None
    max_streams_per_key: PositiveInt = 64
    max_streams_per_connection: PositiveInt = 128
    max_pending_messages: PositiveInt = 256
    reader_stall_timeout_s: Seconds = 30
    request_timeout_s: Seconds = 600

    @model_validator(mode="after")
    def _one_body_can_be_held(self) -> "LimitsSettings":
        if self.max_held_body_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_held_body_bytes ({self.max_held_body_bytes}) is below max_body_bytes ({self.max_body_bytes})"
            )
        return self


class AuthSettings(_Section):
    """`keys_file` lies on every machine where an ingress runs; None: no key is needed."""

    keys_file: str | None = None

    @field_validator("keys_file")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError(
                "must be an absolute path: each process of the cluster has a working directory of its own"
            )
        return path


class SafetySettings(_Section):
    patterns_file: str | None = None


class Settings(_Section):
    """The whole of `args`."""

    models: Annotated[list[ModelSettings], Field(min_length=1)] = [ModelSettings()]
    ingress: IngressSettings = IngressSettings()
    streams: StreamsSettings = StreamsSettings()
    limits: LimitsSettings = LimitsSettings()
    auth: AuthSettings = AuthSettings()
    safety: SafetySettings = SafetySettings()

    @property
    def default_model(self) -> str | None:
        """The model of a request that names none; None when there are several."""
        return self.models[0].name if len(self.models) == 1 else None

    @model_validator(mode="after")
    def _available(self) -> "Settings":
        """A setting that promises what this version can't do is refused rather than ignored."""
        promised = {
            "safety.patterns_file": self.safety.patterns_file is not None,
        }
        for name, wanted in promised.items():
            if wanted:
                raise ValueError(f"{name} is not available in this version")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> "Settings":
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two models have the same name: {', '.join(twice)}")
        return self
