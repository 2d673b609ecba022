"""The budget on machines that are a formula: a step takes `base_s`, and `token_s` for each of its tokens."""

from __future__ import annotations

import pytest

from deployments.engine.prefill_budget import FIRST_TOKENS, MIN_TOKENS, PrefillBudget

TARGET_S = 0.15


class Machine:
    """Keeps the time of each of its steps in `steps_s`."""

    def __init__(self, base_s: float, token_s: float, max_tokens: int = 512) -> None:
        self.budget = PrefillBudget(TARGET_S, max_tokens)
        self.base_s = base_s
        self.token_s = token_s
        self.steps_s: list[float] = []
        self.budget.record(0, 1, base_s + token_s)

    def step(self, prompt_tokens: int, running: int, times: float = 1.0) -> None:
        duration_s = times * (self.base_s + self.token_s * (prompt_tokens + running))
        self.steps_s.append(duration_s)
        self.budget.record(prompt_tokens, running, duration_s)

    def read(self, length: int, running: int = 0) -> list[int]:
        """Reads a prompt of `length` tokens beside `running` sequences. Returns its chunks."""
        chunks = []
        while length > 0:
            chunks.append(min(length, self.budget.tokens))
            self.step(chunks[-1], running)
            length -= chunks[-1]
        return chunks


def test_a_step_takes_the_target_once_the_machine_is_known() -> None:
    """0.38 billion parameters in float32 on one thread: 100 tokens/s."""
    machine = Machine(0.01, 0.01)
    chunks = machine.read(1800)
    assert chunks[0] == FIRST_TOKENS
    assert max(machine.steps_s) == machine.steps_s[0]
    assert all(0.1 < step_s <= 1.2 * TARGET_S for step_s in machine.steps_s[1:-1])


def test_a_fast_machine_gets_to_the_bound_of_tokens_in_doublings() -> None:
    machine = Machine(0.001, 0.00001)
    assert machine.read(2000)[:6] == [32, 64, 128, 256, 512, 512]


@pytest.mark.parametrize("running", [1, 32])
def test_what_the_running_sequences_take_is_not_charged_to_the_prompt(running: int) -> None:
    """The weights take longer than the target to read; each token little."""
    machine = Machine(0.3, 0.001)
    machine.step(0, running)
    chunks = machine.read(2000, running)
    alone_s = machine.steps_s[0]
    assert chunks[-2] == pytest.approx(alone_s / machine.token_s, rel=0.25)
    assert max(machine.steps_s) <= 2.2 * alone_s


def test_the_time_of_a_large_batch_is_not_taken_off_when_few_run() -> None:
    machine = Machine(0.01, 0.01)
    machine.step(0, 32)
    machine.read(600, 1)
    assert max(machine.steps_s[1:]) < 0.4
    assert machine.steps_s[-2] <= 1.3 * TARGET_S


def test_a_machine_that_takes_long_for_any_step_does_not_read_in_tiny_chunks() -> None:
    """The first prompt, with nothing beside it: a step takes at most about twice its least."""
    machine = Machine(1.3, 0.01)
    chunks = machine.read(1800)
    assert len(chunks) < 20
    assert max(machine.steps_s) < 3


def test_a_very_slow_machine_still_reads() -> None:
    machine = Machine(0.0, 0.2)
    assert machine.read(100)[1] == MIN_TOKENS
    assert Machine(0.0, 0.2, max_tokens=4).read(9) == [4, 4, 1]


def test_one_interrupted_step_does_not_count_but_a_machine_that_slows_down_does() -> None:
    machine = Machine(0.001, 0.001)
    machine.read(1000)
    before = machine.budget.tokens
    machine.step(before, 0, times=40)
    assert machine.budget.tokens == pytest.approx(before, rel=0.1)
    machine.step(before, 0, times=10)
    assert machine.budget.tokens < before / 5


def test_a_short_prompt_does_not_hold_the_next_one_down() -> None:
    machine = Machine(0.1, 0.001)
    machine.read(5)
    machine.step(0, 1)
    for _ in range(3):
        machine.read(5, 1)
    assert machine.budget.tokens >= FIRST_TOKENS
