"""An EventSource that comes back after the end: the terminal event to one who lacks it, 204 to one who has it."""

from __future__ import annotations

import pytest

from app.schema.tokens import EngineFinish, TokenBatch
from tests.fakes.clock import settle
from tests.fakes.processes import (
    World,
    at,
    check_union,
    complete_events,
    events,
    kinds,
    last_event_id,
    live,
    recorded,
    text,
)


@pytest.mark.parametrize("n", [1, 3])
def test_cut_between_the_last_delta_and_the_end_an_event_source_gets_the_end(n: int) -> None:
    async def test(world: World) -> None:
        stream_id, texts, _ = await recorded(world, n, tokens=20)
        whole = (await world.answer("GET", events(stream_id))).body
        for cut in range(len(complete_events(whole[:-1])), len(whole)):
            first = world.ask("GET", events(stream_id), takes=cut)
            await settle()
            await first.leave()
            assert first.cut and first.body == whole[:cut]
            seen = complete_events(first.body)
            second = await world.answer(
                "GET", events(stream_id), headers={"Last-Event-ID": last_event_id(seen)}
            )
            assert second.status == 200
            check_union(texts, seen, second.body)
            headers = {"Last-Event-ID": last_event_id(second.body)}
            third = await world.answer("GET", events(stream_id), headers=headers)
            assert (third.status, third.body, third.complete) == (204, b"", True)

    live(test)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("last", "finish"), [("d", "length"), ("d\0", "stop")])
def test_who_has_seen_the_end_is_told_to_stop_by_every_process(
    n: int, last: str, finish: EngineFinish
) -> None:
    """Whether the last token has text, or is the model's own end and so in no delta."""

    async def test(world: World) -> None:
        stream_id = await world.start(n=n)
        readers = [world.ask("GET", events(stream_id), at=process) for process in (world.first, world.second)]
        await settle()
        for index in range(n):
            world.generation.say("abc", choice=index)
            world.generation.say(last, choice=index, finish=finish)
            await settle()
        await world.clock.advance(2)
        for reader in readers:
            *_, delta, end = (await reader.done()).frames
            assert text(reader.frames) == "abcd"
            assert end["cursor"] == ".".join([str(3 + len(last))] * n)
            assert last_event_id(reader.body) == f"{stream_id}:{end['cursor']}:end"
        for process in (world.first, world.second):
            for _ in range(2):
                for cursor in (delta["cursor"], end["cursor"]):
                    answer = await world.answer(
                        "GET", events(stream_id), headers=at(stream_id, cursor), at=process
                    )
                    assert (answer.status, kinds(answer)) == (200, ["end"])
                answer = await world.answer(
                    "GET", events(stream_id), headers=at(stream_id, f"{end['cursor']}:end"), at=process
                )
                assert (answer.status, answer.body) == (204, b"")
                assert "content-length" not in answer.headers

    live(test)


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
def test_every_terminal_event_has_an_id_of_its_own(ending: str) -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        reading = world.ask("GET", events(stream_id))
        world.generation.say("abc")
        await settle()
        if ending == "cancelled":
            await world.answer("DELETE", f"/v1/streams/{stream_id}")
        else:
            batch = TokenBatch(world.generation.job.key, 0, 3, [], "error", error="Broken.")
            world.generation.sink.feed(batch)
        assert kinds(await reading.done())[-1] == ("end" if ending == "cancelled" else "error")
        assert last_event_id(reading.body) == f"{stream_id}:3:end"
        for cursor, status in ((3, 200), ("3:end", 204)):
            answer = await world.answer("GET", events(stream_id), headers=at(stream_id, cursor))
            assert answer.status == status

    live(test)


def test_the_end_does_not_count_as_one_more_reader() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        world.generation.say("abc")
        await settle()
        readers = [world.ask("GET", events(stream_id)) for _ in range(8)]
        await settle()
        answer = await world.answer("GET", events(stream_id), headers=at(stream_id, "3:end"))
        assert answer.status == 204
        world.generation.say("d", finish="length")
        for reader in readers:
            assert text((await reader.done()).frames) == "abcd"

    live(test)


def test_behind_the_last_cursor_there_is_the_terminal_frame_and_behind_its_id_nothing() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        for _ in range(3):
            for answer in (
                await world.answer("GET", f"{events(stream_id)}?after=5"),
                await world.answer("GET", f"{events(stream_id)}?after=5", headers=at(stream_id, 5)),
                await world.answer("POST", "/v1/streams", headers=at(stream_id, 5)),
            ):
                assert (answer.status, kinds(answer), answer.complete) == (200, ["end"], True)
            for answer in (
                await world.answer("GET", f"{events(stream_id)}?after=1", headers=at(stream_id, "5:end")),
                await world.answer("POST", "/v1/streams", headers=at(stream_id, "5:end")),
            ):
                assert (answer.status, answer.body, answer.complete) == (204, b"", True)

    live(test)
