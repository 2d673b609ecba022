"""The OpenAI dialect: the frames of a stream as chat and completion chunks, or as one answer.

The streams are data-only, as real clients need: no ids, no named events but the one that announces a failure. All chunks of
a stream have the same `id`, `created` and `model`; extra fields (`stream_id`, `seed`, `stop_reason`, `token_ids`) are safe
for every known client. Each choice gets its finish reason exactly once, the body ends right after `[DONE]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import msgspec

from app.dialects.completion_logprobs import PieceLengths, TextOffsets, completion_logprobs
from app.dialects.native import FrameFold
from app.ports import ModelCard
from app.schema.frames import (
    ChoiceEnd,
    Delta,
    End,
    ErrorDetail,
    FinishReason,
    Frame,
    Logprob,
    Start,
    ToolCallPiece,
    Usage,
)
from app.schema.openai import StreamOptions
from app.schema.openai_answers import (
    AnsweredCall,
    ChatAnswer,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    ChoiceEnding,
    Completion,
    CompletionChoice,
    Model,
    ModelList,
    OpenAIFinishReason,
    OpenAIUsage,
    ReasoningName,
)
from app.settings import ReasoningField
from app.wire import sse
from app.wire.json_text import json_bytes, json_string
from streaming_inference.choice_fold import ChoiceFold

# The dialect has no word for "cancelled". Whoever still reads then has an answer that was cut off before its natural end,
# which is what clients take "length" for; "stop" would call it complete. `stop_reason` says what it was.
_FINISH_REASONS: dict[FinishReason, OpenAIFinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "cancelled": "length",
}


def chat_id(stream_id: str) -> str:
    """The id of the chat completion that a stream is."""
    return f"chatcmpl-{stream_id.removeprefix('st_')}"


def completion_id(stream_id: str) -> str:
    """The id of the text completion that a stream is."""
    return f"cmpl-{stream_id.removeprefix('st_')}"


def usage_object(usage: Usage) -> OpenAIUsage:
    """`usage` as OpenAI writes it."""
    written: OpenAIUsage = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    if usage.reasoning_tokens:
        written["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return written


def finish(choice: ChoiceEnd) -> tuple[OpenAIFinishReason, str | int | None]:
    """The `finish_reason` and `stop_reason` of a choice, in words that clients of this dialect know."""
    stop_reason = "cancelled" if choice.finish_reason == "cancelled" else choice.stop_reason
    return _FINISH_REASONS[choice.finish_reason], stop_reason


def chat_finish(choice: ChoiceEnd) -> tuple[OpenAIFinishReason, str | int | None]:
    """The same in chats, where an answer that ends with tool calls says so."""
    if choice.finish_reason == "stop" and choice.message is not None and choice.message.tool_calls:
        return "tool_calls", choice.stop_reason
    return finish(choice)


def model_object(card: ModelCard) -> Model:
    """A model as `GET /v1/models/{id}` shows it."""
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": card.owned_by,
        "max_model_len": card.max_model_len_tokens,
        "abilities": {
            "tools": card.calls_tools,
            "reasoning": card.reasons,
            "structured_output": card.structured_output,
        },
        "deterministic": card.deterministic,
        "sampling_defaults": msgspec.to_builtins(card.sampling_defaults),
    }


def model_list(cards: Iterable[ModelCard]) -> ModelList:
    """The models as `GET /v1/models` lists them."""
    return {"object": "list", "data": [model_object(card) for card in cards]}


class _ChunkEncoder(ABC):
    """Frames to chunks; what chat and completions have in common. The start frame must come first."""

    media_type = sse.MEDIA_TYPE

    _object: ClassVar[str]
    _text_opening: ClassVar[str]
    _text_closing: ClassVar[str]
    _nothing: ClassVar[str]
    _finish = staticmethod(finish)

    def __init__(self, *, n: int = 1, options: StreamOptions | None = None) -> None:
        options = options or StreamOptions()
        self._n = n
        self._include_usage = options.include_usage
        self._continuous_usage = options.continuous_usage_stats
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._seed = 0
        self._head = ""
        self._tail = ""

    @property
    def heartbeat(self) -> bytes:
        """A chunk without text. Every known client takes it; a comment breaks older ones of openai-go and some benchmarks.

        There is no chunk before the start frame, which is why a comment must do there.
        """
        if not self._head:
            return sse.HEARTBEAT
        return self._chunk(f'{{"index":0,{self._nothing},"logprobs":null,"finish_reason":null}}').encode()

    def encode(self, frames: Sequence[Frame]) -> bytes:
        """The events of `frames`; the last ones and `[DONE]` after an end or error frame. Empty if there are none."""
        head, tail, plain = self._head, self._tail, not self._continuous_usage
        opening, closing = self._text_opening, self._text_closing
        parts = []
        for frame in frames:
            # Nearly every frame is a plain delta: written from a template, only its text needs encoding.
            if (
                type(frame) is Delta
                and plain
                and frame.token_ids is None
                and frame.logprobs is None
                and not (frame.reasoning or frame.tool_call)
            ):
                if frame.text:
                    text = json_string(frame.text)
                    parts.append(
                        f'{head}{{"index":{frame.index},{opening}{text}{closing},"logprobs":null{tail}'
                    )
            else:
                parts.append(self._other(frame))
                head, tail = self._head, self._tail
        return "".join(parts).encode()

    def _other(self, frame: Frame) -> str:
        if isinstance(frame, Delta):
            self._completion_tokens += frame.tokens
            first, *others = self._parts(frame)
            logprobs = "null" if frame.logprobs is None else self._logprobs(frame, frame.logprobs)
            token_ids = "" if frame.token_ids is None else f',"token_ids":{_json(frame.token_ids)}'
            chunk = f'{{"index":{frame.index},{first},"logprobs":{logprobs},"finish_reason":null{token_ids}}}'
            return self._chunk(chunk) + "".join(self._part_chunk(frame.index, part) for part in others)
        if isinstance(frame, Start):
            self._prompt_tokens = frame.prompt_tokens
            self._seed = frame.seed
            self._head = (
                f'data: {{"id":{json_string(self._id(frame.stream))},"object":"{self._object}",'
                f'"created":{frame.created},"model":{json_string(frame.model)},'
                f'"stream_id":{json_string(frame.stream)},"choices":['
            )
            usage = ',"usage":null' if self._include_usage else ""
            self._tail = f',"finish_reason":null}}]{usage}}}\n\n'
            return self._opening_chunks()
        if not isinstance(frame, End):
            return error_event(frame.error)
        self._completion_tokens = frame.usage.completion_tokens
        chunks = []
        for choice in frame.choices:
            chunks.append(self._rest(choice))
            finish_reason, stop_reason = self._finish(choice)
            chunk = (
                f'{{"index":{choice.index},{self._nothing},"logprobs":null,"finish_reason":"{finish_reason}",'
                f'"stop_reason":{_json(stop_reason)}}}'
            )
            chunks.append(self._chunk(chunk, seed=True))
        if self._include_usage:
            chunks.append(f'{self._head}],"usage":{_json(usage_object(frame.usage))}}}\n\n')
        return "".join(chunks) + sse.DONE.decode()

    def _part_chunk(self, index: int, part: str) -> str:
        return self._chunk(f'{{"index":{index},{part},"logprobs":null,"finish_reason":null}}')

    def _parts(self, frame: Delta) -> list[str]:
        """What the frame says, in one piece of JSON for each chunk; at least one."""
        return [f"{self._text_opening}{json_string(frame.text)}{self._text_closing}"]

    def _rest(self, choice: ChoiceEnd) -> str:
        """Chunks with what no delta had."""
        return ""

    def _chunk(self, choice: str, *, seed: bool = False) -> str:
        usage = ""
        if self._continuous_usage:
            prompt, completion = self._prompt_tokens, self._completion_tokens
            usage = f',"usage":{_json(usage_object(Usage(prompt, completion, prompt + completion)))}'
        elif self._include_usage:
            usage = ',"usage":null'
        told_seed = f',"seed":{self._seed}' if seed else ""
        return f"{self._head}{choice}]{told_seed}{usage}}}\n\n"

    @abstractmethod
    def _id(self, stream_id: str) -> str: ...

    @abstractmethod
    def _opening_chunks(self) -> str: ...

    @abstractmethod
    def _logprobs(self, delta: Delta, logprobs: Sequence[Logprob]) -> str: ...


class ChatStreamEncoder(_ChunkEncoder):
    """The body of a streamed chat completion: a role chunk per choice at once, text, finish chunks, usage if asked for."""

    _finish = staticmethod(chat_finish)
    _object = "chat.completion.chunk"
    _text_opening = '"delta":{"content":'
    _text_closing = "}"
    _nothing = '"delta":{}'

    def __init__(
        self,
        *,
        n: int = 1,
        options: StreamOptions | None = None,
        reasoning_field: ReasoningField = "reasoning_content",
    ) -> None:
        super().__init__(n=n, options=options)
        self._reasoning_fields = reasoning_names(reasoning_field)
        # How many characters of its arguments were written of each call, by its choice and its index.
        self._written: dict[tuple[int, int], int] = {}

    def _id(self, stream_id: str) -> str:
        return chat_id(stream_id)

    def _opening_chunks(self) -> str:
        return "".join(
            self._chunk(
                f'{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}',
                seed=True,
            )
            for index in range(self._n)
        )

    def _logprobs(self, delta: Delta, logprobs: Sequence[Logprob]) -> str:
        return _json(chat_logprobs(logprobs))

    def _parts(self, frame: Delta) -> list[str]:
        parts = []
        if frame.reasoning:
            text = json_string(frame.reasoning)
            fields = ",".join(f'"{name}":{text}' for name in self._reasoning_fields)
            parts.append(f'"delta":{{{fields}}}')
        if frame.text or not (frame.reasoning or frame.tool_call):
            parts += super()._parts(frame)
        if frame.tool_call is not None:
            parts += self._call_parts(frame.index, frame.tool_call)
        return parts

    def _call_parts(self, choice: int, piece: ToolCallPiece) -> list[str]:
        """The id and the name of a call are written once, alone; then pieces of its arguments."""
        parts, key = [], (choice, piece.index)
        if key not in self._written:
            self._written[key] = 0
            opening = call_object(piece.id, piece.name, "")
            parts.append(f'"delta":{{"tool_calls":[{_json({"index": piece.index, **opening})}]}}')
        if piece.arguments:
            self._written[key] += len(piece.arguments)
            more = {"index": piece.index, "function": {"arguments": piece.arguments}}
            parts.append(f'"delta":{{"tool_calls":[{_json(more)}]}}')
        return parts

    def _rest(self, choice: ChoiceEnd) -> str:
        chunks = []
        for index, call in enumerate(choice.message.tool_calls if choice.message is not None else ()):
            written = self._written.get((choice.index, index))
            if written is None or written < len(call.arguments):
                piece = ToolCallPiece(index, call.id, call.name, call.arguments[written or 0 :])
                chunks += [
                    self._part_chunk(choice.index, part) for part in self._call_parts(choice.index, piece)
                ]
        return "".join(chunks)


class CompletionStreamEncoder(_ChunkEncoder):
    """The body of a streamed completion. It has no opening chunk, so that the first chunk is the first text."""

    _object = "text_completion"
    _text_opening = '"text":'
    _text_closing = ""
    _nothing = '"text":""'

    def __init__(
        self,
        *,
        n: int = 1,
        options: StreamOptions | None = None,
        piece_lengths: PieceLengths | None = None,
    ) -> None:
        super().__init__(n=n, options=options)
        self._offsets = TextOffsets(piece_lengths)

    def _id(self, stream_id: str) -> str:
        return completion_id(stream_id)

    def _opening_chunks(self) -> str:
        return ""

    def _logprobs(self, delta: Delta, logprobs: Sequence[Logprob]) -> str:
        return _json(completion_logprobs(logprobs, self._offsets.of(delta)))


class ChatFold(FrameFold):
    """The answer to a chat completion that is not streamed."""

    def __init__(self, reasoning_field: ReasoningField = "reasoning_content") -> None:
        super().__init__()
        self._reasoning_fields = reasoning_names(reasoning_field)

    def result(self) -> ChatCompletion:
        """The whole stream, ready for a JSON encoder. Raises `ValueError` before the end frame."""
        start, end = self._parts()
        choices: list[ChatChoice] = [
            {
                "index": choice.index,
                "message": self._message(choice, folded),
                "logprobs": None if folded.logprobs is None else chat_logprobs(folded.logprobs),
                **_ending(chat_finish(choice), folded),
            }
            for choice, folded in self._ended_choices(end)
        ]
        return {
            "id": chat_id(start.stream),
            "object": "chat.completion",
            "created": start.created,
            "model": start.model,
            "stream_id": start.stream,
            "choices": choices,
            "seed": start.seed,
            "usage": usage_object(end.usage),
        }

    def _message(self, choice: ChoiceEnd, folded: ChoiceFold) -> ChatAnswer:
        answer: ChatAnswer = {"role": "assistant", "content": folded.text, "refusal": None}
        message = choice.message
        if message is None:
            return answer
        if message.reasoning:
            for name in self._reasoning_fields:
                answer[name] = message.reasoning
        if message.tool_calls:
            answer["content"] = folded.text or None
            answer["tool_calls"] = [
                call_object(call.id, call.name, call.arguments) for call in message.tool_calls
            ]
        return answer


class CompletionFold(FrameFold):
    """The answer to a completion that is not streamed."""

    def __init__(self, piece_lengths: PieceLengths | None = None) -> None:
        super().__init__()
        self._text_offsets = TextOffsets(piece_lengths)
        self._offsets: dict[int, list[int]] = {}

    def add(self, frame: Frame) -> None:
        super().add(frame)
        if isinstance(frame, Delta) and frame.logprobs is not None:
            self._offsets.setdefault(frame.index, []).extend(self._text_offsets.of(frame))

    def result(self) -> Completion:
        """The whole stream, ready for a JSON encoder. Raises `ValueError` before the end frame."""
        start, end = self._parts()
        choices: list[CompletionChoice] = [
            {
                "index": choice.index,
                "text": folded.text,
                "logprobs": None
                if folded.logprobs is None
                else completion_logprobs(folded.logprobs, self._offsets[choice.index]),
                **_ending(finish(choice), folded),
            }
            for choice, folded in self._ended_choices(end)
        ]
        return {
            "id": completion_id(start.stream),
            "object": "text_completion",
            "created": start.created,
            "model": start.model,
            "stream_id": start.stream,
            "choices": choices,
            "seed": start.seed,
            "usage": usage_object(end.usage),
        }


def reasoning_names(field: ReasoningField) -> tuple[ReasoningName, ...]:
    """The fields that have the reasoning."""
    return ("reasoning_content", "reasoning") if field == "both" else (field,)


def call_object(call_id: str, name: str, arguments: str) -> AnsweredCall:
    """A tool call as OpenAI writes it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def chat_logprobs(logprobs: Sequence[Logprob]) -> ChatLogprobs:
    """Log probabilities in the shape of chat completions."""
    return {"content": msgspec.to_builtins(logprobs), "refusal": None}


def error_event(error: ErrorDetail) -> str:
    """A failure after the first byte, in the one form that every known client notices, and the end of the body."""
    body = {"message": error.message, "type": error.type, "param": None, "code": error.code}
    note = sse.comment(error.message).decode()
    return f"event: error\n{note}data: {_json({'error': body})}\n\n{sse.DONE.decode()}"


def _ending(ended: tuple[OpenAIFinishReason, str | int | None], folded: ChoiceFold) -> ChoiceEnding:
    finish_reason, stop_reason = ended
    ending: ChoiceEnding = {"finish_reason": finish_reason, "stop_reason": stop_reason}
    if folded.token_ids is not None:
        ending["token_ids"] = folded.token_ids
    return ending


def _json(value: object) -> str:
    return json_bytes(value).decode()
