"""The calls of the gRPC service over a fake generator: frames, statuses, and that streams are left as they should be."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from app.errors import InvalidRequest, ServiceError, draining
from app.proto import generation_pb2 as pb
from app.schema.native import StreamBody
from app.settings import Settings
from app.validation import parse_object
from deployments.ingress.grpc_servicer import GenerationServicer
from tests.cases import validation as cases
from tests.cases.grpc_requests import Inexpressible, grpc_request
from tests.fakes.call_context import FakeContext
from tests.fakes.clock import settle
from tests.fakes.letters_service import LettersService, live

SETTINGS = Settings.model_validate({"models": [{"name": "letters"}]})

# Mistakes that the types of the messages rule out. All others are refused in the same words as over HTTP.
INEXPRESSIBLE = {
    # wrong types
    *("list", "prompt_number", "ids_strings", "detach", "logprobs_bool", "model_number", "seed_string"),
    *("temperature_string", "temperature_bool", "top_k_fraction", "logit_bias_list", "logit_bias_null"),
    *("stop_number", "stop_entry_number", "stop_token_ids_single", "n_bool", "max_tokens_string"),
    *("ignore_eos_number", "return_token_ids_string", "stream_string", "format_string"),
    *("messages_string", "message_string", "content_number", "content_null"),
    *("call_string", "calls_object", "call_empty", "call_id", "call_arguments", "arguments_object"),
    *("tools_object", "tool_string", "tool_without_function", "strict_string"),
    *("choice_number", "choice_empty", "choice_unnamed", "parallel", "include_reasoning"),
    # a string instead of a list
    "stop_long",
    # beyond 64 bits, no Unicode, no integer as a key
    *("seed_high", "seed_low", "prompt_surrogate", "logit_bias_key", "logit_bias_padded_key"),
    # no such field, no such kind, two of a kind that there is one of
    *("unknown", "unknown_null", "unknown_in_message", "two_prompts", "format_unknown", "image_part"),
    *("unknown_in_call", "unknown_in_function", "call_custom", "tool_type", "choice_type"),
}


def run(test: Callable[[LettersService, GenerationServicer], Awaitable[None]]) -> None:
    async def main(letters: LettersService) -> None:
        await test(letters, GenerationServicer(letters.service, raises=False))

    live(SETTINGS, main)


def refused_over_http(body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        parse_object(StreamBody, body).to_request(SETTINGS.limits, SETTINGS.default_model)
    return refusal.value


async def collect(frames: AsyncGenerator[pb.Frame, None]) -> list[pb.Frame]:
    return [frame async for frame in frames]


def ask(**fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"prompt": "hi", "seed": 1, **fields})


def kinds(frames: list[pb.Frame]) -> list[str | None]:
    return [frame.WhichOneof("frame") for frame in frames]


def test_mistakes_that_can_be_made_are_refused_as_over_http() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        skipped = set()
        for case in cases.NATIVE:
            try:
                request = grpc_request(case.body)
            except Inexpressible:
                skipped.add(case.name)
                continue
            expected = refused_over_http(case.body)
            context = FakeContext()
            assert await collect(await servicer.generate(request, context)) == []
            assert context.code is grpc.StatusCode.INVALID_ARGUMENT, case.name
            assert context.details == f"{expected.code}: {expected.message}", case.name
            assert context.trailing["error-code"] == expected.code
            assert context.trailing.get("error-param") == expected.param == case.param
        assert skipped == INEXPRESSIBLE
        assert not letters.generator.generations

    run(test)


def test_the_frames_of_a_stream() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        frames = await servicer.generate(ask(), context)
        start = await anext(frames)
        assert (start.cursor, start.start.seed, start.start.prompt_tokens) == ("0", 1, 2)
        assert start.start.deterministic
        letters.generation.say("ab")
        letters.generation.say("c")
        delta = await anext(frames)  # what was ready together comes together
        assert (delta.cursor, delta.delta.text, delta.delta.tokens) == ("3", "abc", 3)
        letters.generation.say("d", finish="length")
        rest = await collect(frames)
        assert kinds(rest) == ["delta", "end"]
        assert rest[-1].end.choices[0].finish_reason == pb.FINISH_REASON_LENGTH
        assert context.code is None

    run(test)


def test_an_error_in_the_middle_is_a_frame_and_the_status() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        frames = await servicer.generate(ask(), context)
        await anext(frames)
        letters.generation.say("", finish="error")
        [error] = await collect(frames)
        assert error.error.error.code == "generation_failed"
        assert (context.code, context.trailing["error-code"]) == (
            grpc.StatusCode.INTERNAL,
            "generation_failed",
        )

    run(test)


def test_frames_that_cannot_be_made_end_in_an_error_of_which_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        frames = await servicer.generate(ask(on_disconnect=pb.ON_DISCONNECT_CANCEL), context)
        await anext(frames)
        broken = letters.generation.sink

        def text(*args: int) -> str:
            raise RuntimeError("secret")

        monkeypatch.setattr(broken.choices[0], "text", text)  # type: ignore[attr-defined]
        letters.generation.say("a")
        [error] = await collect(frames)
        assert error.error.error.code == "internal_error"
        assert context.code is grpc.StatusCode.INTERNAL and "secret" not in context.details
        await settle()

    with caplog.at_level(logging.CRITICAL):
        run(test)


def test_a_reader_that_is_cut_off_gets_a_status_without_a_terminal_frame() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        frames = await servicer.generate(ask(), context)
        await anext(frames)
        await letters.service.close()
        assert await collect(frames) == []
        assert (context.code, context.trailing["error-code"]) == (grpc.StatusCode.UNAVAILABLE, "draining")
        assert context.trailing["retry-after"] == "1"

    run(test)


@pytest.mark.parametrize("waiting", [False, True])
def test_a_call_that_is_cancelled_leaves_its_stream_at_once(waiting: bool) -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        frames = await servicer.generate(ask(on_disconnect=pb.ON_DISCONNECT_CANCEL), FakeContext())
        await anext(frames)
        assert letters.generator.running
        if waiting:
            reading = asyncio.ensure_future(anext(frames))
            await settle()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        else:
            with pytest.raises(asyncio.CancelledError):
                await frames.athrow(asyncio.CancelledError())  # as Serve does
        await settle()
        assert not letters.generator.running

    run(test)


def test_a_stream_with_time_of_grace_is_resumed_by_another_call() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        first = await servicer.generate(ask(), FakeContext())
        start = await anext(first)
        letters.generation.say("abc")
        assert (await anext(first)).cursor == "3"
        await first.aclose()
        await settle()
        assert letters.generator.running
        wanted = pb.ResumeRequest(stream=start.start.stream, after="1")
        second = await servicer.resume(wanted, FakeContext())
        letters.generation.say("d", finish="length")
        frames = await collect(second)
        assert (frames[0].delta.text, frames[0].cursor) == ("bcd", "4")
        whole = await collect(
            await servicer.resume(pb.ResumeRequest(stream=start.start.stream), FakeContext())
        )
        assert kinds(whole) == ["start", "delta", "end"]

    run(test)


def test_a_long_text_comes_in_messages_that_are_not_too_long() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        detached = await servicer.generate(ask(detach=True, return_token_ids=True), FakeContext())
        [start] = await collect(detached)
        letters.generation.say("a" * 1900, finish="length")
        wanted = pb.ResumeRequest(stream=start.start.stream, after="0")
        frames = await collect(await servicer.resume(wanted, FakeContext()))
        assert [frame.delta.tokens for frame in frames] == [1024, 876, 0]

    run(test)


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (pb.ResumeRequest(), grpc.StatusCode.INVALID_ARGUMENT, "stream"),
        (pb.ResumeRequest(stream=""), grpc.StatusCode.INVALID_ARGUMENT, "stream"),
        (pb.ResumeRequest(stream="st_1"), grpc.StatusCode.NOT_FOUND, None),
        (pb.ResumeRequest(stream="st_1", after="x" * 300), grpc.StatusCode.INVALID_ARGUMENT, "after"),
    ],
    ids=["unsaid", "empty", "unknown", "long_cursor"],
)
def test_what_cannot_be_resumed(request_: pb.ResumeRequest, code: grpc.StatusCode, param: str | None) -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        assert await collect(await servicer.resume(request_, context)) == []
        assert (context.code, context.trailing.get("error-param")) == (code, param)

    run(test)


def test_a_cursor_beyond_the_stream() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        [start] = await collect(await servicer.generate(ask(detach=True), FakeContext()))
        context = FakeContext()
        wanted = pb.ResumeRequest(stream=start.start.stream, after="9")
        assert await collect(await servicer.resume(wanted, context)) == []
        assert (context.code, context.trailing["error-code"]) == (
            grpc.StatusCode.OUT_OF_RANGE,
            "invalid_cursor",
        )

    run(test)


def test_cancel_ends_the_stream_and_says_how_it_stands() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        frames = await servicer.generate(ask(), FakeContext())
        start = await anext(frames)
        wanted = pb.CancelRequest(stream=start.start.stream)
        reply = await servicer.cancel(wanted, FakeContext())
        assert (reply.stream, reply.state) == (start.start.stream, "ended")
        assert kinds(await collect(frames)) == ["end"]
        assert (await servicer.cancel(wanted, FakeContext())).state == "ended"
        context = FakeContext()
        await servicer.cancel(pb.CancelRequest(stream="st_1"), context)
        assert (context.code, context.details[:18]) == (grpc.StatusCode.NOT_FOUND, "stream_not_found: ")

    run(test)


def test_streams_belong_to_whoever_the_metadata_name() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        mine = FakeContext(authorization="Bearer mine")
        [start] = await collect(await servicer.generate(ask(detach=True), mine))
        wanted = pb.CancelRequest(stream=start.start.stream)
        other = FakeContext(x_api_key="other")
        await servicer.cancel(wanted, other)
        assert other.code is grpc.StatusCode.NOT_FOUND
        same = FakeContext(x_api_key="mine")
        assert (await servicer.cancel(wanted, same)).state == "ended"

    run(test)


def with_keys(folder: Path) -> Settings:
    """Settings with which only the key "good" may call."""
    path = folder / "keys.json"
    digest = hashlib.sha256(b"good").hexdigest()
    path.write_text(json.dumps({"keys": [{"name": "ann", "sha256": digest}]}))
    return Settings.model_validate({"models": [{"name": "letters"}], "auth": {"keys_file": str(path)}})


def test_every_call_needs_a_key_where_there_are_keys(tmp_path: Path) -> None:
    async def main(letters: LettersService) -> None:
        servicer = GenerationServicer(letters.service, raises=False)

        async def calls(context: FakeContext) -> list[grpc.StatusCode | None]:
            codes = []
            for call in (
                servicer.generate(ask(n=0), context),
                servicer.resume(pb.ResumeRequest(stream="st_1"), context),
                servicer.converse(Client.silent(), context),
            ):
                await collect(await call)
                codes.append(context.code)
            await servicer.cancel(pb.CancelRequest(stream="st_1"), context)
            return [*codes, context.code]

        for refused in (FakeContext(), FakeContext(authorization="Bearer bad")):
            assert set(await calls(refused)) == {grpc.StatusCode.UNAUTHENTICATED}
        assert await calls(FakeContext(authorization="Bearer good")) == [
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.NOT_FOUND,
        ]

    live(with_keys(tmp_path), main)


def test_an_idempotency_key_in_the_metadata() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        async def start(request: pb.GenerateRequest, context: FakeContext) -> list[pb.Frame]:
            return await collect(await servicer.generate(request, context))

        request = ask(detach=True)
        [first] = await start(request, FakeContext(idempotency_key="k"))
        [again] = await start(request, FakeContext(idempotency_key="k"))
        assert first.start.stream == again.start.stream
        context = FakeContext(idempotency_key="k")
        assert await start(ask(detach=True, n=2), context) == []
        assert context.code is grpc.StatusCode.ALREADY_EXISTS
        context = FakeContext(idempotency_key="k k")
        assert await start(request, context) == []
        assert context.trailing["error-param"] == "Idempotency-Key"

    run(test)


def test_a_message_that_is_too_large() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        await collect(await servicer.generate(ask(prompt="x" * 4 * 1_048_576), context))
        assert (context.code, context.trailing["error-code"]) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "body_too_large",
        )

    run(test)


def test_where_only_an_exception_carries_the_status_there_is_one() -> None:
    async def main(letters: LettersService) -> None:
        servicer = GenerationServicer(letters.service, raises=True)
        context = FakeContext()
        with pytest.raises(InvalidRequest):
            await servicer.generate(ask(n=0), context)
        assert context.code is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(ServiceError):
            await servicer.resume(pb.ResumeRequest(stream="st_1"), FakeContext())
        # An answer carries its status itself.
        assert await servicer.cancel(pb.CancelRequest(stream="st_1"), FakeContext()) == pb.CancelReply()
        frames = await servicer.generate(ask(), FakeContext())
        await anext(frames)
        await letters.service.close()
        with pytest.raises(type(draining())):
            await anext(frames)

    live(SETTINGS, main)


STALLED_S = SETTINGS.limits.reader_stall_timeout_s


def test_a_client_that_takes_nothing_for_long_has_left_its_stream() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        frames = await servicer.generate(ask(on_disconnect=pb.ON_DISCONNECT_CANCEL), context)
        await anext(frames)
        await asyncio.sleep(STALLED_S - 1)
        await settle()
        assert letters.generator.running
        await asyncio.sleep(2)
        await settle()
        assert not letters.generator.running
        assert await collect(frames) == []
        assert (context.code, context.trailing["error-code"]) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "timeout",
        )

    run(test)


def test_one_that_takes_nothing_of_a_conversation_has_left_all_of_them() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        async def said() -> AsyncIterator[pb.ClientMessage]:
            for _ in range(3):
                yield pb.ClientMessage(generate=ask(on_disconnect=pb.ON_DISCONNECT_CANCEL))
            await asyncio.Event().wait()

        context = FakeContext()
        frames = await servicer.converse(said(), context)
        await anext(frames)
        await settle()
        assert len(letters.generator.running) == 3
        await asyncio.sleep(STALLED_S + 1)
        await settle()
        assert not letters.generator.running
        assert await collect(frames) == []
        assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED

    run(test)


class Client:
    """The client's side of a conversation."""

    def __init__(self, servicer: GenerationServicer, context: FakeContext) -> None:
        self.received: list[pb.Frame] = []
        self._messages: asyncio.Queue[pb.ClientMessage | None] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run(servicer, context))

    def say(self, **fields: Any) -> None:
        self._messages.put_nowait(pb.ClientMessage(**fields))

    def finish(self) -> None:
        self._messages.put_nowait(None)

    async def over(self) -> list[pb.Frame]:
        await self._task
        return self.received

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @staticmethod
    async def silent() -> AsyncIterator[pb.ClientMessage]:
        """A client that says nothing."""
        nothing: list[pb.ClientMessage] = []
        for message in nothing:
            yield message

    async def _run(self, servicer: GenerationServicer, context: FakeContext) -> None:
        async for frame in await servicer.converse(self._said(), context):
            self.received.append(frame)

    async def _said(self) -> AsyncIterator[pb.ClientMessage]:
        while (message := await self._messages.get()) is not None:
            yield message


def test_a_conversation_of_several_streams() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        client = Client(servicer, context)
        client.say(ref="a", generate=ask())
        client.say(ref="b", generate=ask(prompt="other"))
        client.say(ref="c", ping=pb.PingRequest())
        await settle()
        assert sorted((frame.ref, frame.WhichOneof("frame")) for frame in client.received) == [
            ("a", "start"),
            ("b", "start"),
            ("c", "pong"),
        ]
        streams = {frame.ref: frame.stream for frame in client.received}
        client.finish()
        for number, letter in enumerate("xy"):
            letters.generator.generations[number].say(letter, finish="length")
        frames = await client.over()
        texts = {frame.stream: frame.delta.text for frame in frames if frame.HasField("delta")}
        assert set(texts) == {streams["a"], streams["b"]} and set(texts.values()) == {"x", "y"}
        assert kinds(frames).count("end") == 2 and context.code is None

    run(test)


def test_a_message_that_is_wrong_gets_a_refusal_and_the_conversation_goes_on() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        client = Client(servicer, FakeContext())
        client.say(ref="a", generate=ask(n=33))
        client.say(ref="b", generate=ask(prompt="x" * 4 * 1_048_576))
        client.say(ref="c")
        client.say(ref="d", window=5, cancel=pb.CancelRequest(stream="st_1"))
        client.say(ref="e", resume=pb.ResumeRequest(stream="st_1"))
        client.say(ref="f" * 200, ping=pb.PingRequest())
        client.finish()
        frames = await client.over()
        said = sorted((frame.ref, frame.stream, frame.refusal.error.param) for frame in frames)
        assert said == [
            ("", "", ""),
            ("", "", "ref"),
            ("a", "", "n"),
            ("c", "", "type"),
            ("d", "st_1", "window"),
            ("e", "st_1", ""),
        ]
        assert {frame.refusal.error.code for frame in frames} == {
            "invalid_request",
            "body_too_large",
            "stream_not_found",
        }

    run(test)


def test_a_window_holds_back_what_is_not_acknowledged() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        client = Client(servicer, FakeContext())
        client.say(window=2, generate=ask())
        await settle()
        stream = client.received[0].stream
        letters.generation.say("abcde")
        await settle()
        assert [frame.delta.text for frame in client.received[1:]] == ["ab"]
        client.say(ack=pb.AckRequest(stream=stream, cursor="1"))
        await settle()
        assert client.received[-1].cursor == "3"
        await client.leave()
        await settle()
        await servicer.cancel(pb.CancelRequest(stream=stream), FakeContext())

    run(test)


def test_a_conversation_that_breaks_leaves_its_streams() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        client = Client(servicer, FakeContext())
        client.say(generate=ask(on_disconnect=pb.ON_DISCONNECT_CANCEL))
        await settle()
        assert letters.generator.running
        await client.leave()
        await settle()
        assert not letters.generator.running

    run(test)


def test_a_conversation_ends_with_the_process() -> None:
    async def test(letters: LettersService, servicer: GenerationServicer) -> None:
        context = FakeContext()
        client = Client(servicer, context)
        client.say(generate=ask())
        await settle()
        await letters.service.close()
        await client.over()
        assert (context.code, context.trailing["error-code"]) == (grpc.StatusCode.UNAVAILABLE, "draining")

    run(test)
