"""Streams whose output is parsed: what readers get, at any pace and after any cursor, adds up to the same message."""

from __future__ import annotations

import asyncio
from typing import Any

from app.schema.frames import Delta, End, Frame, Message, ToolCall
from app.schema.tokens import TokenBatch
from app.schema.tools import Tool
from app.streams.choice import Choice
from app.streams.stream import Stream
from app.text.logprobs import LogprobWriter
from app.text.parsed_text import ParsedText
from app.text.response_format import ResponseFormat
from streaming_inference.transcript import Transcript
from tests.app.text.test_output_parser import TEMPLATE
from tests.fakes.clock import FakeClock
from tests.fakes.generator import encode, letters
from tests.fakes.requests import record

LETTERS = letters()
FORMAT = ResponseFormat(TEMPLATE, LETTERS)
CALL = '<call>{"name": "add", "arguments": {"a": 1}}</call>'
OUTPUT = f"<think>\nHm.</think>\n\nSure. {CALL}\n{CALL} Done."


def stream_of(**fields: Any) -> Stream:
    asked = record("st_1", **fields)
    write_logprobs = LogprobWriter(LETTERS).write_all
    parsers = FORMAT.parsers(encode("<bot>"), [Tool(name="add")], asked.request.n)
    choices = [
        Choice(ParsedText(LETTERS, [], parser=parser, marks={}, name=f"st_1:{index}"), write_logprobs)
        for index, parser in enumerate(parsers)
    ]
    stream = Stream(
        asked,
        choices,
        began_s=0.0,
        clock=FakeClock(),
        window_tokens=1_000_000,
        on_changed=lambda stream: None,
        on_left=lambda stream: None,
    )
    stream.produce_here()
    return stream


def parts(frames: list[Frame]) -> tuple[str, str, dict[str, str]]:
    """What the deltas add up to."""
    deltas = [frame for frame in frames if isinstance(frame, Delta)]
    calls: dict[str, str] = {}
    for delta in deltas:
        if delta.tool_call is not None:
            piece = delta.tool_call
            calls[piece.id] = calls.get(piece.id, "") + piece.arguments
    return "".join(delta.text for delta in deltas), "".join(delta.reasoning for delta in deltas), calls


def test_readers_at_any_pace_get_the_same_parts() -> None:
    stream, ids = stream_of(), [*encode(OUTPUT), 0]
    fast, slow, late = (stream.readers.join() for _ in range(3))
    seen: list[list[Frame]] = [[], [], []]
    for position, token_id in enumerate(ids):
        stream.feed(TokenBatch(1, 0, position, [token_id], "stop" if position == len(ids) - 1 else None))
        seen[0] += fast.take()
        if position % 7 == 0:
            seen[1] += slow.take()
    seen[1] += slow.take()
    seen[2] += late.take()
    for frames in seen:
        end = frames[-1]
        assert isinstance(end, End)
        message = end.choices[0].message
        assert message is not None
        assert message == Message(
            "Sure. Done.", "Hm.", [ToolCall(call.id, "add", '{"a": 1}') for call in message.tool_calls]
        )
        assert len({call.id for call in message.tool_calls}) == 2
        text, reasoning, calls = parts(frames)
        assert (text, reasoning) == (message.content, message.reasoning)
        assert calls == {call.id: call.arguments for call in message.tool_calls}
        assert end.usage.reasoning_tokens == len("\nHm.</think>")
        transcript = Transcript()
        for frame in frames:
            transcript.take(frame)
        assert transcript.result("st_1").choices[0].message == message
    # Whole parts, where all is there: reasoning, text, a call, text between calls is none, a call, text.
    assert [bool(frame.reasoning) for frame in seen[2] if isinstance(frame, Delta)] == [True, *[False] * 4]


def test_a_reader_may_resume_after_every_token() -> None:
    ids = [*encode(OUTPUT), 0]
    stream = stream_of()
    stream.feed(TokenBatch(1, 0, 0, ids, "stop"))
    whole = parts(stream.readers.join().take())
    for cursor in range(len(ids)):
        early = stream_of()
        early.feed(TokenBatch(1, 0, 0, ids[:cursor]))
        reader = early.readers.join()
        before = [frame for frame in reader.take() if isinstance(frame, Delta)]
        # The last tokens may have nothing to say: then the cursor is before them.
        after = stream.readers.join(reader.cursor).take()
        assert isinstance(after[-1], End)
        assert parts([*before, *after]) == whole, cursor


def test_tokens_and_log_probabilities_are_with_their_parts() -> None:
    stream = stream_of(return_token_ids=True)
    reader = stream.readers.join()
    ids = encode("<think>Hm</think>Yes")
    stream.feed(TokenBatch(1, 0, 0, ids, "length"))
    deltas = [frame for frame in reader.take() if isinstance(frame, Delta)]
    assert [token_id for delta in deltas for token_id in delta.token_ids or ()] == ids
    assert [(delta.reasoning, delta.text) for delta in deltas] == [("Hm", ""), ("", "Yes")]


def test_a_cancelled_stream_has_what_was_said() -> None:
    stream = stream_of(n=2)

    async def cancel() -> None:
        stream.feed(TokenBatch(1, 0, 0, encode("<think>Hm")))
        stream.cancel()

    asyncio.run(cancel())
    assert isinstance(stream.ending, End)
    assert [choice.message for choice in stream.ending.choices] == [Message("", "Hm"), Message("")]
