"""The pace of the simulated engine, by a clock that the tests move. What it shares with the other engine is
in test_contract.py.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.config import EngineConfig
from deployments.engine.simulated import SimulatedEngine

FIRST_S, STEP_S = 0.5, 0.125


class PacedEngine:
    """An engine and its clock; `events` are (time, key, position) of every token."""

    def __init__(self, **bounds: int) -> None:
        self.now = 1000.0
        self.events: list[tuple[float, int, int]] = []
        places: dict[str, Any] = {"max_running_sequences": 8, "max_waiting_sequences": 8}
        config = EngineConfig(**{**places, **bounds})
        self.engine = SimulatedEngine(
            config,
            vocab_size=1000,
            token_ids=range(100, 200),
            first_token_s=FIRST_S,
            step_s=STEP_S,
            clock=lambda: self.now,
        )

    def add(self, key: int, max_tokens: int = 4, **changes: Any) -> None:
        sampling = SamplingParams(max_tokens=max_tokens, **changes)
        self.engine.add(Job(ingress="a", key=key, prompt=[1, 2, key], sampling=sampling))

    def until(self, time: float, late: float = 0.0) -> None:
        """Steps whenever one is due, `late` after that, until `time` seconds after the start."""
        end = 1000.0 + time
        while (due_s := self.engine.next_step_s()) is not None and self.now + due_s <= end:
            self.now += due_s + late
            for batch in self.engine.step().get("a", []):
                assert len(batch.token_ids) == 1
                self.events.append((self.now - 1000.0, batch.key, batch.position))
        self.now = max(end, self.now)

    def times(self, key: int) -> list[float]:
        return [time for time, other, _ in self.events if other == key]


def test_the_first_token_comes_after_its_time_and_the_others_at_the_pace() -> None:
    paced = PacedEngine()
    paced.add(1)
    paced.until(9)
    assert paced.times(1) == [0.5, 0.625, 0.75, 0.875]


def test_each_first_token_has_its_own_time_and_then_joins_the_ticks() -> None:
    paced = PacedEngine()
    paced.add(1, 12)
    paced.until(0.0625)
    paced.add(2, 4)
    paced.until(9)
    assert paced.times(2) == [0.5625, 0.625, 0.75, 0.875]
    assert set(paced.times(2)[1:]) <= set(paced.times(1))


def test_lateness_does_not_add_up() -> None:
    paced = PacedEngine()
    paced.add(1, 40)
    paced.until(60, late=0.03125)
    times = paced.times(1)
    assert len(times) == 40
    assert [round(time - 0.5 - 0.03125, 9) for time in times] == [STEP_S * tick for tick in range(40)]


def test_ticks_that_are_missed_are_left_out() -> None:
    """As a GPU that stood still would: the tokens come later, not in a burst."""
    paced = PacedEngine()
    paced.add(1, 6)
    paced.until(0.75)
    paced.now += 0.3125
    paced.until(9)
    assert paced.times(1) == [0.5, 0.625, 0.75, 1.0625, 1.125, 1.25]


def test_those_who_wait_start_when_a_place_is_free() -> None:
    paced = PacedEngine(max_running_sequences=1)
    paced.add(1, 2)
    paced.add(2, 2)
    paced.until(9)
    assert paced.times(1) == [0.5, 0.625]
    assert paced.times(2) == [0.625 + 0.5, 0.625 + 0.5 + 0.125]


def test_a_stream_that_was_paused_goes_on_at_the_next_tick() -> None:
    paced = PacedEngine()
    paced.add(1, 20)
    paced.add(2, 6)
    paced.until(0.7)
    paced.engine.pause("a", 2)
    paced.until(1.05)
    paced.engine.resume("a", 2)
    paced.until(9)
    assert paced.times(2) == [0.5, 0.625, 1.125, 1.25, 1.375, 1.5]


def test_the_ticks_begin_again_after_a_time_without_streams() -> None:
    paced = PacedEngine()
    paced.add(1, 2)
    paced.until(3.01)
    paced.add(2, 2)
    paced.until(9)
    assert paced.times(2) == pytest.approx([3.51, 3.635])


def test_tokens_are_printable_and_go_past_one_block() -> None:
    paced = PacedEngine(max_model_len_tokens=2048)
    paced.engine.add(Job(ingress="a", key=1, prompt=[5], sampling=SamplingParams(max_tokens=700)))
    tokens: list[int] = []
    while paced.engine.has_work:
        paced.now += paced.engine.next_step_s() or 0.0
        tokens += [token for batch in paced.engine.step()["a"] for token in batch.token_ids]
    assert len(tokens) == 700
    assert set(tokens) == set(range(100, 200))


def test_stop_tokens_end_a_stream_in_a_later_block() -> None:
    """With one printable token that is also the stop token, nothing else can come before `min_tokens`."""
    ticks = iter(range(10_000))
    engine = SimulatedEngine(
        EngineConfig(),
        vocab_size=10,
        token_ids=[3],
        first_token_s=1,
        step_s=1,
        clock=lambda: float(next(ticks)),
    )
    sampling = SamplingParams(max_tokens=600, stop_token_ids=(3,), min_tokens=300)
    engine.add(Job(ingress="a", key=1, prompt=[5], sampling=sampling))
    position, finish = 0, None
    while engine.has_work:
        for batch in engine.step().get("a", []):
            position, finish = batch.position, batch.finish
    assert (position, finish) == (300, "stop")


@pytest.mark.parametrize("token_ids", [[], [-1], [1000]])
def test_tokens_outside_of_the_vocabulary_are_refused(token_ids: list[int]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        SimulatedEngine(EngineConfig(), vocab_size=1000, token_ids=token_ids, first_token_s=1, step_s=1)


def test_it_does_not_load_torch() -> None:
    """Which takes seconds, and hundreds of megabytes in each replica."""
    program = "import sys; import deployments.engine.simulated; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
