"""Recovery: which streams are tried again, when, and in turns."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import GenerationFailed, GeneratorUnavailable, Overloaded
from app.recovery import FIRST_RETRY_S, LAST_RETRY_S, Recovery, Trials
from app.schema.tokens import TRIAL_S, TokenBatch
from app.settings import StreamsSettings
from tests.fakes.clock import FakeClock
from tests.fakes.jobs import Sink
from tests.fakes.loop import run

SETTINGS = StreamsSettings(replica_wait_s=10, max_lost_replicas=5)


def test_pauses_grow_until_a_token_comes() -> None:
    recovery = Recovery(SETTINGS, FakeClock())
    pauses = [recovery.lost("a", tokens=False, on_trial=False)]
    pauses += [recovery.refused(Overloaded("It is full.")) for _ in range(4)]
    assert pauses == [0, FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S, LAST_RETRY_S]
    assert recovery.lost("b", tokens=True, on_trial=False) == 0
    assert recovery.lost("c", tokens=False, on_trial=False) == FIRST_RETRY_S


def test_a_stream_is_suspected_while_its_last_replica_gave_it_nothing() -> None:
    recovery = Recovery(SETTINGS, FakeClock())
    assert not recovery.suspected
    for replica, tokens in (("a", False), ("b", True), ("c", False)):
        recovery.lost(replica, tokens=tokens, on_trial=False)
        assert recovery.suspected is not tokens


def test_the_second_replica_that_is_lost_in_a_trial_is_the_last() -> None:
    recovery = Recovery(SETTINGS, FakeClock())
    recovery.lost("a", tokens=False, on_trial=False)
    with pytest.raises(GenerationFailed, match="2 replicas were lost while they computed this stream"):
        recovery.lost("b", tokens=False, on_trial=True)


def test_what_clears_a_suspect() -> None:
    recovery = Recovery(SETTINGS, FakeClock())
    recovery.lost("a", tokens=False, on_trial=True)  # the first one
    recovery.lost("a", tokens=False, on_trial=True)  # the same, which may be found hung again
    recovery.lost("b", tokens=True, on_trial=True)
    recovery.lost("c", tokens=False, on_trial=False)  # others may have done it
    with pytest.raises(GenerationFailed, match="4 replicas"):
        recovery.lost("d", tokens=False, on_trial=True)


def test_tokens_do_not_set_the_lost_replicas_back() -> None:
    recovery = Recovery(SETTINGS, FakeClock())
    for replica in "abcd":
        recovery.lost(replica, tokens=True, on_trial=False)
    with pytest.raises(GeneratorUnavailable, match="lost its replica 5 times, the maximum") as raised:
        recovery.lost("e", tokens=True, on_trial=False)
    assert raised.value.retryable


def test_a_stream_waits_for_a_replica_so_long_and_no_longer() -> None:
    async def main() -> None:
        clock, nothing = FakeClock(), GeneratorUnavailable("No replica answers.")
        recovery = Recovery(SETTINGS, clock)
        await clock.advance(recovery.lost("a", tokens=True, on_trial=False))
        with pytest.raises(GeneratorUnavailable, match="No replica answers"):
            while True:
                await clock.advance(recovery.refused(nothing))
        assert clock.monotonic() == SETTINGS.replica_wait_s

    asyncio.run(main())


def test_a_stream_waits_for_room_without_end() -> None:
    async def main() -> None:
        clock = FakeClock()
        recovery = Recovery(SETTINGS, clock)
        recovery.lost("a", tokens=True, on_trial=False)
        while clock.monotonic() < 20 * SETTINGS.replica_wait_s:
            await clock.advance(recovery.refused(Overloaded("It is full.")))
        recovery.refused(GeneratorUnavailable("No replica answers."))

    asyncio.run(main())


def test_a_trial_is_over_with_the_first_tokens_or_with_the_attempt() -> None:
    async def main() -> None:
        trials, sink = Trials(), Sink()
        with trials.turn(sink) as trial:
            running = [trials.running]
            trial.feed(TokenBatch(1, 0, 0, [5]))
            running.append(trials.running)
            with trials.turn(Sink()) as second:
                trial.feed(TokenBatch(1, 0, 1, [6]))
                running.append(trials.running)
            running.append(trials.running)
            assert running == [trial, None, second, None]
            trial.lost()
        assert (sink.ids, sink.losses) == ([5, 6], 1)

    run(main())


def test_a_trial_in_which_nothing_happens_lets_the_next_one_try() -> None:
    async def main() -> None:
        trials = Trials()
        with trials.turn(Sink()) as trial:
            await asyncio.sleep(TRIAL_S - 1)
            running = [trials.running]
            await asyncio.sleep(2)
            assert [*running, trials.running] == [trial, None]

    run(main())
