"""An EventSource that comes back after the end: the terminal frame, or 204."""

from __future__ import annotations

import pytest

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
        for _ in range(2):  # The two who have read it so far
            headers = {"Last-Event-ID": last_event_id(whole)}
            assert (await world.answer("GET", events(stream_id), headers=headers)).status == 204
        for cut in range(len(complete_events(whole[:-1])), len(whole)):
            first = world.ask("GET", events(stream_id), takes=cut)
            await settle()
            await first.leave()
            assert first.cut and first.body == whole[:cut]
            seen = complete_events(first.body)
            headers = {"Last-Event-ID": last_event_id(seen)}
            second = await world.answer("GET", events(stream_id), headers=headers)
            assert second.status == 200
            check_union(texts, seen, second.body)
            third = await world.answer("GET", events(stream_id), headers=headers)
            assert (third.status, third.body, third.complete) == (204, b"", True)

    live(test)


def test_an_event_source_that_has_seen_the_end_is_told_to_stop() -> None:
    async def test(world: World) -> None:
        reading = world.ask("POST", "/v1/streams", json_body={"prompt": "hi"})
        await settle()
        world.generation.say("abc", finish="length")
        assert kinds(await reading.done()) == ["start", "delta", "end"]
        stream_id = reading.headers["x-stream-id"]
        answer = await world.answer("GET", events(stream_id), headers=at(stream_id, 3))
        assert (answer.status, answer.body) == (204, b"")
        assert "content-length" not in answer.headers

    live(test)


def test_where_nobody_has_seen_the_end_it_is_sent_before_the_204() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        for ingress in (world.first, world.second):
            for expected in (["end"], [], []):
                answer = await world.answer("GET", events(stream_id), headers=at(stream_id, 5), at=ingress)
                assert (answer.status, kinds(answer)) == (200 if expected else 204, expected)

    live(test)


@pytest.mark.parametrize("n", [1, 2])
def test_where_only_the_end_has_the_last_id_every_process_tells_to_stop(n: int) -> None:
    """As where a model ends its text: readers at any speed, before and after the end, have no delta with that id."""

    async def test(world: World) -> None:
        stream_id = await world.start(n=n)
        readers = [
            world.ask("GET", events(stream_id), at=at_process) for at_process in (world.first, world.second)
        ]
        await settle()
        for index in range(n):
            world.generation.say("abc", choice=index)
            world.generation.say("d\0", choice=index, finish="stop")
            await settle()
        await world.clock.advance(2)
        readers += [
            world.ask("GET", events(stream_id), at=at_process) for at_process in (world.first, world.second)
        ]
        last = ".".join(["5"] * n)
        for reader in readers:
            *_, delta, end = (await reader.done()).frames
            assert text(reader.frames) == "abcd"
            assert (delta["cursor"], end["cursor"]) == (".".join([*["4"] * n]), last)
        for ingress in (world.first, world.second):
            for cursor, status in ((last, 204), (delta["cursor"], 200)):
                for _ in range(2):
                    answer = await world.answer(
                        "GET", events(stream_id), headers=at(stream_id, cursor), at=ingress
                    )
                    assert (answer.status, kinds(answer)) == (status, ["end"] if status == 200 else [])

    live(test)


def test_one_client_that_has_seen_the_end_does_not_take_it_from_another() -> None:
    async def test(world: World) -> None:
        stream_id = await world.start()
        lucky, unlucky = (world.ask("GET", events(stream_id)) for _ in range(2))
        world.generation.say("abc", finish="length")
        await settle()
        assert kinds(await lucky.done())[-1] == "end"
        await unlucky.done()
        cut = world.ask("GET", events(stream_id), takes=len(complete_events(lucky.body[:-1])))
        await settle()
        await cut.leave()
        assert kinds(cut) == ["start", "delta"]
        # Any two of the three may be the first to come back, so that three answers could be the last that one gets.
        answers = [await world.answer("GET", events(stream_id), headers=at(stream_id, 3)) for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 204]

    live(test)


@pytest.mark.parametrize("seen", [True, False])
def test_an_end_that_came_some_time_after_the_last_delta_is_sent_once_more(seen: bool) -> None:
    """Its client may have been lost in between, without the server's seeing it."""

    async def test(world: World) -> None:
        stream_id = await world.start()
        reading = world.ask("GET", events(stream_id))
        world.generation.say("abc")
        await settle()
        if not seen:
            await reading.leave()
        await world.answer("DELETE", f"/v1/streams/{stream_id}")
        assert kinds(await reading.done()) == ["start", "delta", "end"][: 3 if seen else 2]
        answers = [await world.answer("GET", events(stream_id), headers=at(stream_id, 3)) for _ in range(2)]
        assert [(answer.status, kinds(answer)) for answer in answers] == [(200, ["end"]), (204, [])]

    live(test)


def test_an_end_that_is_cut_off_again_is_sent_again() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        for takes in (0, 10):
            again = world.ask("GET", events(stream_id), headers=at(stream_id, 5), takes=takes)
            await settle()
            await again.leave()
            assert again.status == 200
        assert kinds(await world.answer("GET", events(stream_id), headers=at(stream_id, 5))) == ["end"]

    live(test)


def test_behind_the_last_cursor_there_is_the_terminal_frame_once_more() -> None:
    async def test(world: World) -> None:
        stream_id = await world.ended()
        for _ in range(3):
            for answer in (
                await world.answer("GET", f"{events(stream_id)}?after=5"),
                await world.answer("GET", f"{events(stream_id)}?after=5", headers=at(stream_id, 5)),
                await world.answer("POST", "/v1/streams", headers=at(stream_id, 5)),
            ):
                assert (answer.status, kinds(answer), answer.complete) == (200, ["end"], True)

    live(test)
