"""Steering from one ingress process to the engines of another's streams: everything but Ray is real, and replicas die."""

from __future__ import annotations

import asyncio

import pytest

from app.schema.frames import Delta, End, Frame
from tests.fakes.generator import encode
from tests.fakes.graph import graph, reached, text
from tests.fakes.requests import request
from tests.fakes.services import rest


def put_in(untouched: str, frames: list[Frame], index: int) -> str:
    """What the stream says into which text was put: the engine's tokens depend on their place alone."""
    for frame in frames:
        if isinstance(frame, Delta) and frame.steered and frame.index == index:
            end = int(frame.cursor.split(".")[index])
            untouched = untouched[: end - frame.tokens] + frame.text + untouched[end:]
    return untouched


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("dies", [False, True])
def test_text_is_put_in_once_wherever_it_comes_from_and_whoever_dies(n: int, which: int, dies: bool) -> None:
    asked = request(max_tokens=400, seed=5, n=n)

    async def main() -> None:
        async with graph() as one:
            untouched = await rest((await one.services[0].start(asked)).readers.join())
            stream = await one.services[0].start(asked)
            here = asyncio.ensure_future(rest(stream.readers.join()))
            elsewhere = asyncio.ensure_future(rest(await one.services[1].resume(stream.id)))
            await reached(stream, 30)
            for piece in ("<one>", "<two>"):
                await one.services[which].steer(stream.id, piece)
                if piece == "<one>" and dies:
                    one.kill_worker()
            for frames in (await here, await elsewhere):
                end = frames[-1]
                assert isinstance(end, End) and end.usage.completion_tokens == 400 * n
                for index in range(n):
                    steered = [
                        f.text for f in frames if isinstance(f, Delta) and f.steered and f.index == index
                    ]
                    assert steered == ["<one>", "<two>"]
                    assert text(frames, index) == put_in(text(untouched, index), frames, index)
            ids = stream.choices[0].token_ids
            assert bytes(encode("<one>")) in bytes(ids) and bytes(encode("<two>")) in bytes(ids)

    asyncio.run(main())
