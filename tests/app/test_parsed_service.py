"""What of the streams of a service is parsed, and that another process goes on with the same parts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.errors import InvalidRequest
from app.schema.frames import Delta, End, Frame
from app.schema.requests import GenerationRequest, Message
from app.schema.tools import Tool
from tests.app.text.test_output_parser import TEMPLATE
from tests.fakes.clock import settle
from tests.fakes.requests import request
from tests.fakes.services import World, live, rest, text

OUTPUT = '<think>Hm</think>Sure.<call>{"name": "add", "arguments": {"a": 1}}</call>'
CALL = OUTPUT[OUTPUT.index("<call>") :]


async def prepare(world: World) -> None:
    for ingress in (world.first, world.second):
        ingress.tokenizer.card = msgspec.structs.replace(ingress.tokenizer.card, response_template=TEMPLATE)
        ingress.model.card = None
        await ingress.model.load()


def chat(**fields: Any) -> GenerationRequest:
    asked = request(max_tokens=0, seed=7, **fields)
    return msgspec.structs.replace(asked, prompt=None, messages=(Message("user", "hi<bot>"),))


def deltas(frames: list[Frame]) -> list[tuple[str, str, str]]:
    return [
        (frame.reasoning, frame.text, frame.tool_call.arguments if frame.tool_call else "")
        for frame in frames
        if isinstance(frame, Delta)
    ]


@pytest.mark.parametrize(
    ("asked", "content", "reasoning", "calls"),
    [
        (chat(tools=(Tool(name="add"),)), "Sure.", "Hm", 1),
        (chat(tools=(Tool(name="add"),), tool_choice="none"), f"Sure.{CALL}", "Hm", 0),
        (chat(), f"Sure.{CALL}", "Hm", 0),
        (chat(include_reasoning=False), f"Sure.{CALL}", "", 0),
    ],
)
def test_the_parts_of_a_chat(asked: GenerationRequest, content: str, reasoning: str, calls: int) -> None:
    async def test(world: World) -> None:
        await prepare(world)
        stream = await world.service.start(asked)
        reader = await world.service.read(stream)
        world.generator.generations[0].say(OUTPUT, finish="length")
        frames = await rest(reader)
        end = frames[-1]
        assert isinstance(end, End)
        message = end.choices[0].message
        assert message is not None
        assert (message.content, message.reasoning, len(message.tool_calls)) == (content, reasoning, calls)
        assert text(frames) == content
        assert end.usage.reasoning_tokens == len("Hm</think>")

    live(test)


def test_what_was_left_out_of_the_answer_is_not_shown_by_its_tokens() -> None:
    async def test(world: World) -> None:
        await prepare(world)
        for fields in ({"return_token_ids": True}, {"logprobs": 1}):
            with pytest.raises(InvalidRequest, match="would show the reasoning"):
                await world.service.start(chat(include_reasoning=False, **fields))

    live(test)


@pytest.mark.parametrize(("prompt", "end"), [("hi<bot>", None), ("hi<bot><think>", "</think>")])
def test_the_reasoning_that_the_prompt_begins(prompt: str, end: str | None) -> None:
    async def test(world: World) -> None:
        await prepare(world)
        assert world.first.model.end_of_reasoning([ord(character) for character in prompt]) == end

    live(test)


def test_a_prompt_is_never_parsed() -> None:
    async def test(world: World) -> None:
        await prepare(world)
        stream = await world.service.start(request("hi<bot>"))
        reader = await world.service.read(stream)
        world.generator.generations[0].say("<think>Hm</think>", finish="length")
        frames = await rest(reader)
        end = frames[-1]
        assert isinstance(end, End)
        assert (text(frames), end.choices[0].message) == ("<think>Hm</think>", None)

    live(test)


@pytest.mark.parametrize("seen", [5, 20, 40, 60])
def test_another_process_goes_on_with_the_same_parts(seen: int) -> None:
    async def test(world: World) -> None:
        await prepare(world)
        stream = await world.service.start(chat(tools=(Tool(name="add"),)))
        reader = await world.service.read(stream)
        world.generator.generations[0].say(OUTPUT[:seen])
        await settle()
        before = reader.take()
        elsewhere = await world.second.service.resume(stream.id, reader.cursor)
        world.generator.generations[0].say(OUTPUT[seen:], finish="length")
        await settle()
        whole, after = before + reader.take(), before + await rest(elsewhere)
        assert [*map("".join, zip(*deltas(whole), strict=True))] == [
            *map("".join, zip(*deltas(after), strict=True))
        ]
        assert whole[-1] == after[-1]
        ids = {frame.tool_call.id for frame in after if isinstance(frame, Delta) and frame.tool_call}
        assert len(ids) == 1

    live(test)
