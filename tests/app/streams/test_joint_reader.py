"""Several streams read as one."""

from __future__ import annotations

import pytest

from app.errors import Draining
from app.schema.frames import Delta, End, Error, Start
from app.settings import Settings
from app.streams.joint_reader import JointReader
from tests.fakes.clock import settle
from tests.fakes.letters_service import LettersService, live
from tests.fakes.requests import request

SETTINGS = Settings.model_validate({"models": [{"name": "letters"}]})


async def joint(
    letters: LettersService, *prompts: str, n: int = 1, openings: tuple[str, ...] = ()
) -> JointReader:
    requests = [request(prompt, seed=1, n=n, on_disconnect="cancel") for prompt in prompts]
    streams = await letters.service.start_all(requests)
    return JointReader([await letters.service.read(stream) for stream in streams], openings)


def test_cursors_and_indices_are_those_of_one_stream_with_all_choices() -> None:
    async def test(letters: LettersService) -> None:
        reader = await joint(letters, "ab", "c", n=2)
        first, second = letters.generator.generations
        [start] = reader.take()
        assert isinstance(start, Start) and (start.cursor, start.prompt_tokens) == ("0", 3)
        assert start.stream == reader.stream_id
        second.say("xy", choice=1)
        await settle()
        first.say("z")
        await settle()
        deltas = reader.take()
        assert deltas == [Delta("0.0.0.2", 3, "xy", 2), Delta("1.0.0.2", 0, "z", 1)]
        assert reader.piece_lengths(3, 0, 2) == [1, 1] and reader.piece_lengths(0, 0, 1) == [1]
        for generation in (second, first):
            reader.take()
            assert not reader.ended
            for choice in (0, 1):
                generation.say("!", choice=choice, finish="length")
            await settle()
        *_, end = reader.take()
        assert isinstance(end, End) and reader.ended and end.cursor == "2.1.1.3"
        assert [choice.index for choice in end.choices] == [0, 1, 2, 3]
        assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.total_tokens) == (3, 7, 10)
        assert len(end.text_sha256) == 4 and reader.take() == []
        reader.close()

    live(SETTINGS, test)


def test_openings_come_once_and_count_no_token() -> None:
    async def test(letters: LettersService) -> None:
        reader = await joint(letters, "a", "b", n=2, openings=("A", "B"))
        _, *deltas = reader.take()
        assert deltas == [Delta("0", index, text, 0) for index, text in enumerate("AABB")]
        assert reader.take() == []
        reader.close()
        await settle()

    live(SETTINGS, test)


def test_the_first_error_is_the_last_frame() -> None:
    async def test(letters: LettersService) -> None:
        reader = await joint(letters, "a", "b")
        first, second = letters.generator.generations
        reader.take()
        first.say("x")
        second.say("", finish="error")
        await settle()
        delta, error = reader.take()
        assert isinstance(delta, Delta) and isinstance(error, Error) and reader.ended
        assert error.cursor == "1.0" and reader.take() == []
        reader.close()
        await settle()

    live(SETTINGS, test)


def test_a_reader_that_is_cut_off_has_no_end() -> None:
    async def test(letters: LettersService) -> None:
        reader = await joint(letters, "a", "b")
        frames = reader.frames()
        assert isinstance(await anext(frames), Start)
        await letters.service.close()
        with pytest.raises(Draining):
            await anext(frames)
        assert reader.cut and not reader.ended

    live(SETTINGS, test)
