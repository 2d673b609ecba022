"""The OpenAI dialect as the real SDK reads it; the exact bytes are in `tests/golden`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from app.dialects.openai import (
    ChatFold,
    ChatStreamEncoder,
    CompletionFold,
    CompletionStreamEncoder,
    model_list,
    model_object,
)
from app.errors import GeneratorUnavailable
from app.ports import ModelCard
from app.schema.frames import ChoiceEnd, Delta, End, Frame
from app.schema.openai import StreamOptions
from app.schema.sampling import SamplingDefaults
from app.wire.encoder import Encoder
from tests.cases.folds import folded
from tests.cases.frames import CHOICES, STREAMS, TIMINGS, start, usage

WHOLE = [name for name in STREAMS if name != "broken"]
OPTIONS = [
    None,
    StreamOptions(include_usage=True),
    StreamOptions(continuous_usage_stats=True),
    StreamOptions(include_usage=True, continuous_usage_stats=True),
]
ENCODERS = [ChatStreamEncoder, CompletionStreamEncoder]


class Body(httpx2.SyncByteStream):
    """A response body that arrives in the given pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


def sdk(pieces: Sequence[bytes], media_type: str = "text/event-stream; charset=utf-8") -> openai.OpenAI:
    """A client of the real SDK whose server answers with `pieces`."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": media_type}, stream=Body(pieces))

    transport = httpx2.MockTransport(answer)
    return openai.OpenAI(
        api_key="none",
        base_url="http://server/v1",
        http_client=httpx2.Client(transport=transport),
        max_retries=0,
    )


def chunks(body: bytes) -> list[dict[str, Any]]:
    """The JSON of the events, after checking that the body is data-only and ends with [DONE]."""
    events = body.decode().removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def text_of(chunk: dict[str, Any]) -> dict[int, str]:
    return {
        choice["index"]: choice["text"] if "text" in choice else choice["delta"].get("content", "")
        for choice in chunk["choices"]
    }


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_sdk_types_take_every_chat_chunk(name: str, options: StreamOptions | None) -> None:
    for chunk in chunks(ChatStreamEncoder(n=CHOICES[name], options=options).encode(STREAMS[name])):
        parsed = ChatCompletionChunk.model_validate(chunk, strict=True)
        assert (parsed.id, parsed.created, parsed.model) == (
            "chatcmpl-0123456789abcdef",
            1790000000,
            "storyteller",
        )


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_sdk_types_take_every_completion_chunk(name: str, options: StreamOptions | None) -> None:
    for chunk in chunks(CompletionStreamEncoder(n=CHOICES[name], options=options).encode(STREAMS[name])):
        for choice in chunk["choices"]:
            # The SDK's type knows only the last chunk's finish reason; the API itself sends null before.
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        parsed = Completion.model_validate(chunk, strict=True)
        assert (parsed.id, parsed.created, parsed.model) == (
            "cmpl-0123456789abcdef",
            1790000000,
            "storyteller",
        )


@pytest.mark.parametrize("name", WHOLE)
def test_the_sdk_types_take_the_folds(name: str) -> None:
    chat = ChatCompletion.model_validate(folded(ChatFold(), STREAMS[name]), strict=True)
    completion = Completion.model_validate(folded(CompletionFold(), STREAMS[name]), strict=True)
    assert [choice.message.content for choice in chat.choices] == [
        choice.text for choice in completion.choices
    ]
    assert chat.usage == completion.usage
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("encoder_type", ENCODERS)
def test_each_choice_finishes_once_and_its_text_is_that_of_the_fold(
    name: str, encoder_type: type[ChatStreamEncoder] | type[CompletionStreamEncoder]
) -> None:
    texts = dict.fromkeys(range(CHOICES[name]), "")
    finished: list[int] = []
    for chunk in chunks(encoder_type(n=CHOICES[name]).encode(STREAMS[name])):
        for index, text in text_of(chunk).items():
            texts[index] += text
        finished += [choice["index"] for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(finished) == list(texts)
    assert list(texts.values()) == [
        choice["text"] for choice in folded(CompletionFold(), STREAMS[name])["choices"]
    ]


def test_roles_go_out_with_the_start() -> None:
    body = ChatStreamEncoder(n=2).encode([start()]) + b"data: [DONE]\n\n"
    assert [chunk["choices"][0] for chunk in chunks(body)] == [
        {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        for index in range(2)
    ]


def test_a_completion_begins_with_its_first_text() -> None:
    assert CompletionStreamEncoder().encode([start()]) == b""


@pytest.mark.parametrize("encoder_type", ENCODERS)
def test_held_back_text_makes_no_chunk(
    encoder_type: type[ChatStreamEncoder] | type[CompletionStreamEncoder],
) -> None:
    encoder: Encoder = encoder_type()
    encoder.encode([start()])
    assert encoder.encode([Delta("1", 0, "", 1)]) == b""
    assert b'"a"' in encoder.encode([Delta("2", 0, "a", 1)])


@pytest.mark.parametrize(
    ("encoder", "choice"),
    [
        (ChatStreamEncoder(), '{"index":0,"delta":{},"logprobs":null,"finish_reason":null}'),
        (CompletionStreamEncoder(), '{"index":0,"text":"","logprobs":null,"finish_reason":null}'),
    ],
)
def test_a_heartbeat_is_a_chunk_without_text(encoder: Encoder, choice: str) -> None:
    assert encoder.heartbeat == b": ping\n\n"
    opening = encoder.encode([start(), Delta("1", 0, "a", 1)])
    head = opening.split(b'"choices":[')[0].decode()
    assert encoder.heartbeat == f'{head}"choices":[{choice}]}}\n\n'.encode()


def test_a_heartbeat_counts_no_tokens() -> None:
    encoder = ChatStreamEncoder(options=StreamOptions(include_usage=True, continuous_usage_stats=True))
    encoder.encode([start(), Delta("2", 0, "ab", 2)])
    (heartbeat,) = chunks(encoder.heartbeat + b"data: [DONE]\n\n")
    assert heartbeat["usage"]["completion_tokens"] == 2
    ChatCompletionChunk.model_validate(heartbeat, strict=True)


def test_usage_is_null_until_the_last_chunk_when_it_is_asked_for() -> None:
    body = ChatStreamEncoder(options=StreamOptions(include_usage=True)).encode(STREAMS["plain"])
    usages = [chunk["usage"] for chunk in chunks(body)]
    assert usages[:-1] == [None] * (len(usages) - 1)
    assert usages[-1] == {
        "prompt_tokens": 17,
        "completion_tokens": 6,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 16},
    }
    assert chunks(body)[-1]["choices"] == []


def test_usage_is_left_out_when_it_is_not_asked_for() -> None:
    assert b'"usage"' not in ChatStreamEncoder().encode(STREAMS["plain"])


def test_continuous_usage_counts_up() -> None:
    options = StreamOptions(continuous_usage_stats=True)
    body = chunks(ChatStreamEncoder(options=options).encode(STREAMS["plain"]))
    assert [chunk["usage"]["completion_tokens"] for chunk in body] == [0, 1, 2, 4, 6, 6]
    assert all(chunk["choices"] for chunk in body)


@pytest.mark.parametrize("make", [ChatFold, CompletionFold])
def test_a_fold_raises_what_an_error_frame_says(make: Any) -> None:
    with pytest.raises(GeneratorUnavailable):
        folded(make(), STREAMS["broken"])


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
def test_the_sdk_streams_a_chat(pieces: int) -> None:
    body = ChatStreamEncoder(options=StreamOptions(include_usage=True)).encode(STREAMS["plain"])
    parts = [body[at : at + pieces] for at in range(0, len(body), pieces)]
    with sdk(parts) as client:
        read = list(
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "a"}], stream=True
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in read if chunk.choices)
    assert text == 'Once the "re"\nnaïve ☃\u2028🦊\\'
    assert read[-2].choices[0].finish_reason == "stop"
    assert read[-1].usage is not None
    assert read[-1].usage.completion_tokens == 6


def test_the_sdk_streams_a_completion() -> None:
    with sdk([CompletionStreamEncoder(n=2).encode(STREAMS["two_choices"])]) as client:
        read = list(client.completions.create(model="m", prompt="a", stream=True))
    assert "".join(chunk.choices[0].text for chunk in read if chunk.choices[0].index == 1) == "B B"


@pytest.mark.parametrize("encoder_type", ENCODERS)
def test_the_sdk_raises_for_a_stream_that_fails(
    encoder_type: type[ChatStreamEncoder] | type[CompletionStreamEncoder],
) -> None:
    body = encoder_type().encode(STREAMS["broken"])
    with (
        sdk([body]) as client,
        pytest.raises(openai.APIError, match=r'It is\s"gone"') as failure,
    ):
        list(
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "a"}], stream=True
            )
        )
    assert failure.value.code == "generator_unavailable"
    assert failure.value.type == "server_error"


@given(st.lists(st.text(), max_size=5), st.data())
def test_any_text_arrives_at_any_split(texts: list[str], data: st.DataObject) -> None:
    deltas = [Delta(str(at + 1), 0, text, 1) for at, text in enumerate(texts)]
    end = End(str(len(texts)), [ChoiceEnd(0, "stop", None)], usage(len(texts)), TIMINGS, ["00"])
    frames: list[Frame] = [start(), *deltas, end]
    body = ChatStreamEncoder().encode(frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[begin:stop] for begin, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    events = list(SSEDecoder().iter_bytes(iter(pieces)))
    assert events[-1].data == "[DONE]"
    parsed = [ChatCompletionChunk.model_validate(event.json(), strict=True) for event in events[:-1]]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in parsed) == "".join(texts)


@pytest.mark.parametrize("encoder_type", ENCODERS)
@given(st.data())
def test_how_frames_come_together_does_not_matter(
    encoder_type: type[ChatStreamEncoder] | type[CompletionStreamEncoder], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(STREAMS)))
    frames = STREAMS[name]
    options = data.draw(st.sampled_from(OPTIONS))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frames)), max_size=3)))
    encoder = encoder_type(n=CHOICES[name], options=options)
    bounds = zip([0, *cuts], [*cuts, len(frames)], strict=True)
    written = b"".join(encoder.encode(frames[begin:stop]) for begin, stop in bounds)
    assert written == encoder_type(n=CHOICES[name], options=options).encode(frames)


def test_models() -> None:
    card = ModelCard(
        name="storyteller",
        created=1790000000,
        owned_by="simulated",
        max_model_len_tokens=2048,
        vocab_size=4096,
        tokenizer_json="{}",
        has_chat_template=True,
        deterministic=True,
        sampling_defaults=SamplingDefaults(temperature=0.6, top_k=20),
    )
    shown = {
        "id": "storyteller",
        "object": "model",
        "created": 1790000000,
        "owned_by": "simulated",
        "max_model_len": 2048,
        "abilities": {"tools": False, "reasoning": False, "structured_output": False},
        "deterministic": True,
        "sampling_defaults": {
            "temperature": 0.6,
            "top_p": 1.0,
            "top_k": 20,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        },
    }
    assert model_object(card) == shown
    assert model_list([card]) == {"object": "list", "data": [shown]}
    assert Model.model_validate(shown, strict=True).id == "storyteller"
