"""The jitter buffer: the same text in the same order, evenly, no later than it must be."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_inference import jitter
from streaming_inference.jitter import FASTEST, MAX_DELAY_S, SLOWEST, TAIL_S, Piece, Playout, play
from tests.fakes.clock import FakeClock, settle

ROOT = Path(__file__).parents[2]
STEP_S = 0.02


def played(arrivals: Sequence[tuple[float, Piece]]) -> list[tuple[float, str]]:
    """When each piece is played, by a player that is never late."""
    playout, found, now_s = Playout(), list[tuple[float, str]](), 0.0
    coming = list(arrivals)
    while coming or len(playout):
        if not coming:
            playout.finish()
        due_s = playout.due_s()
        if coming and (due_s is None or coming[0][0] <= max(due_s, now_s)):
            at_s, piece = coming.pop(0)
            now_s = max(now_s, at_s)
            playout.arrive(piece, now_s)
        else:
            assert due_s is not None
            now_s = max(now_s, due_s)
            found.append((now_s, playout.take(now_s)))
    return found


def evenly(count: int, step_s: float = STEP_S) -> list[tuple[float, Piece]]:
    return [(number * step_s, Piece(f" {number}", 1)) for number in range(count)]


def gaps(times: Sequence[float]) -> list[float]:
    return [late - early for early, late in pairwise(times)]


def test_the_documented_figures_are_those_of_the_benchmark() -> None:
    command = [sys.executable, "-m", "benchmarks.jitter"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout in (ROOT / "docs/client.md").read_text("utf-8")


pieces = st.builds(Piece, st.text(st.sampled_from("ab é\n森の 🙂"), max_size=12), st.integers(1, 9))


@given(st.lists(st.tuples(st.floats(0, 2), pieces), max_size=60))
def test_nothing_is_lost_or_reordered_and_all_of_it_is_played_soon_after_the_last_arrival(
    waits: list[tuple[float, Piece]],
) -> None:
    now_s, arrivals = 0.0, []
    for wait_s, piece in waits:
        now_s += wait_s
        arrivals.append((now_s, piece))
    found = played(arrivals)
    assert "".join(text for _, text in found) == "".join(piece.text for _, piece in waits)
    assert all(text for _, text in found)
    if found:
        assert found[-1][0] <= now_s + TAIL_S + 1e-6


def test_what_comes_evenly_is_played_as_it_comes() -> None:
    arrivals = evenly(200)
    assert all(
        at_s - came_s < 1e-6 for (came_s, _), (at_s, _) in zip(arrivals, played(arrivals), strict=True)
    )


def test_the_first_text_is_not_held_back() -> None:
    arrivals = [
        (5.0 + number * STEP_S + 0.1 * (number % 7 == 3), piece)
        for number, (_, piece) in enumerate(evenly(50))
    ]
    assert played(sorted(arrivals, key=lambda arrival: arrival[0]))[0][0] == 5.0


def test_bursts_become_an_even_flow() -> None:
    """Ten tokens at once, five times a second."""
    arrivals = [((number // 10) * 0.2, Piece(f" {number}", 1)) for number in range(400)]
    times = [at_s for at_s, _ in played(arrivals)]
    settled = gaps(times[100:-20])
    assert all(0.5 * STEP_S < gap_s < 2 * STEP_S for gap_s in settled)
    delays = [at_s - came_s for at_s, (came_s, _) in zip(times[100:-20], arrivals[100:-20], strict=True)]
    assert max(delays) < 0.3  # a burst waits for its own length, which can't be less, and for little more


def test_tokens_that_come_together_are_played_one_after_the_other() -> None:
    arrivals = [(number * 0.2, Piece(" one two three four five" * 2, 10)) for number in range(40)]
    found = played(arrivals)
    assert len(found) == 400 and {text for _, text in found} == {" one", " two", " three", " four", " five"}
    assert all(gap_s < 2 * STEP_S for gap_s in gaps([at_s for at_s, _ in found[100:-20]]))


def test_the_delay_grows_and_shrinks_without_a_jump() -> None:
    late = {100 + number: 0.3 - number * STEP_S for number in range(15)}
    arrivals = [
        (number * STEP_S + late.get(number, 0.0), piece) for number, (_, piece) in enumerate(evenly(400))
    ]
    times = [at_s for at_s, _ in played(arrivals)]
    long = [gap_s for gap_s in gaps(times) if gap_s > SLOWEST * STEP_S * 1.1]
    assert len(long) == 1 and long[0] < 0.35  # what nobody could foresee
    assert min(gaps(times[150:-20])) > FASTEST * STEP_S * 0.9


def test_the_delay_has_a_bound() -> None:
    playout = Playout()
    for number in range(100):
        playout.arrive(Piece("a", 1), number * STEP_S + (5.0 if number > 90 else 0.0))
    assert 0 < playout.delay_s <= MAX_DELAY_S


@pytest.mark.parametrize(
    ("text", "tokens", "parts"),
    [
        ("one two three", 3, ["one", " two", " three"]),
        ("one two three", 2, ["one", " two three"]),
        ("one two", 5, ["one", " two"]),
        ("one two", 1, ["one two"]),
        ("  ", 3, ["  "]),
        (" a \n", 2, [" a \n"]),
        ("a b ", 2, ["a", " b "]),
        ("森の熊", 3, ["森", "の", "熊"]),
        ("👩‍🚀é", 4, ["👩‍🚀é"]),
    ],
)
def test_text_is_cut_between_words(text: str, tokens: int, parts: list[str]) -> None:
    playout = Playout()
    playout.arrive(Piece(text, tokens), 0.0)
    assert [playout.take(0.0) for _ in range(len(playout))] == parts


class Source:
    """Pieces that a test hands out."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False
        self._queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()

    def say(self, *said: Piece | Exception | None) -> None:
        for piece in said:
            self._queue.put_nowait(piece)

    async def pieces(self) -> AsyncIterator[Piece]:
        try:
            while (said := await self._queue.get()) is not None:
                if isinstance(said, Exception):
                    raise said
                self.taken += 1
                yield said
        finally:
            self.closed = True


class Listener:
    """Plays a source on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.source = Source()
        self.heard: list[str] = []
        self.listening = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        async with aclosing(play(self.source.pieces(), self.clock)) as texts:
            async for text in texts:
                self.heard.append(text)


def test_playing_follows_the_clock() -> None:
    async def main() -> None:
        listener = Listener()
        for number in range(10):
            listener.source.say(Piece(str(number), 1))
            await listener.clock.advance(1.0)
        assert listener.heard == [str(number) for number in range(10)]
        # Three seconds of text at once: the first is due now, the others one after the other.
        listener.source.say(*[Piece(letter, 1) for letter in "abc"])
        await settle()
        early = len(listener.heard)
        await listener.clock.advance(0.5)
        assert early <= len(listener.heard) < 13
        listener.source.say(None)
        await listener.clock.advance(TAIL_S)
        await listener.listening
        assert "".join(listener.heard) == "0123456789abc" and listener.source.closed

    asyncio.run(main())


def test_an_error_comes_behind_the_text_before_it() -> None:
    async def main() -> None:
        listener = Listener()
        listener.source.say(*[Piece(letter, 1) for letter in "abc"], ZeroDivisionError())
        await listener.clock.advance(TAIL_S)
        assert listener.heard == ["a", "b", "c"]
        with pytest.raises(ZeroDivisionError):
            await listener.listening

    asyncio.run(main())


def test_closing_the_player_closes_the_source() -> None:
    async def main() -> None:
        listener = Listener()
        listener.source.say(Piece("a", 1))
        await settle()
        listener.listening.cancel()
        await asyncio.gather(listener.listening, return_exceptions=True)
        assert listener.source.closed and listener.heard == ["a"]

    asyncio.run(main())


def test_what_is_read_ahead_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jitter, "MAX_WAITING_PIECES", 3)

    async def main() -> None:
        source, clock = Source(), FakeClock()
        source.say(*[Piece(letter, 1) for letter in "abcdefghij"], None)
        async with aclosing(play(source.pieces(), clock)) as texts:
            heard = await anext(texts)
            await settle()
            assert source.taken <= 5
            async for text in texts:
                heard += text
        assert heard == "abcdefghij"

    asyncio.run(main())
