"""What every `deployments.engine.protocol.Engine` does, whatever generates its tokens.

A test module makes a subclass of `EngineContract` whose name begins with `Test` and gives it a `make`. All
tests bring an engine to its end with `run`, which waits as `next_step_s` says by moving the clock that `make`
hands out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from app.errors import InvalidRequest, Overloaded, PromptTooLong
from app.schema.sampling import SamplingParams
from app.schema.tokens import Edit, Job, Steering, TokenBatch, TokenLogprob
from deployments.engine.config import EngineConfig
from deployments.engine.protocol import Engine, Outputs

CONFIG = EngineConfig(
    max_model_len_tokens=128,
    max_running_sequences=3,
    max_waiting_sequences=4,
    kv_cache_tokens=1024,
    prefill_chunk_tokens=16,
)
PROMPT = [3, 14, 15, 92, 65]
SAMPLING = SamplingParams(max_tokens=12, seed=6, temperature=1.5)

Made = dict[tuple[str, int, int], list[TokenBatch]]


class EngineContract:
    """`make(config)` gives a fresh engine with at least 100 tokens, and a function that lets seconds pass for
    it.
    """

    def make(self, config: EngineConfig = CONFIG) -> tuple[Engine, Callable[[float], None]]:
        raise NotImplementedError

    # The producer.

    def collect(self, made: Made, outputs: Outputs) -> None:
        for ingress, batches in outputs.items():
            assert batches
            for batch in batches:
                earlier = made.setdefault((ingress, batch.key, batch.choice), [])
                assert not (earlier and earlier[-1].finish)
                if earlier:
                    assert batch.position == earlier[-1].position + len(earlier[-1].token_ids)
                earlier.append(batch)

    def run(
        self, engine: Engine, wait: Callable[[float], None], made: Made | None = None, steps: int = 2000
    ) -> Made:
        made = {} if made is None else made
        for _ in range(steps):
            due_s = engine.next_step_s()
            if due_s is None:
                break
            wait(due_s)
            self.collect(made, engine.step())
        return made

    def job(self, key: int, sampling: SamplingParams = SAMPLING, ingress: str = "a", **changes: Any) -> Job:
        return Job(ingress=ingress, key=key, prompt=PROMPT, sampling=sampling, **changes)

    def tokens(self, batches: list[TokenBatch]) -> list[int]:
        return [token for batch in batches for token in batch.token_ids]

    def answer(self, job: Job) -> list[TokenBatch]:
        engine, wait = self.make()
        engine.add(job)
        (batches,) = self.run(engine, wait).values()
        return batches

    # What holds.

    def test_a_job_is_answered_from_the_first_token_to_its_end(self) -> None:
        batches = self.answer(self.job(7))
        assert batches[0].position == 0
        assert len(self.tokens(batches)) == 12
        assert batches[-1].finish == "length"
        assert batches[-1].token_ids

    def test_an_engine_without_jobs_has_no_work(self) -> None:
        engine, _ = self.make()
        assert not engine.has_work
        assert engine.next_step_s() is None
        assert engine.step() == {}
        assert engine.healthy

    def test_the_same_job_has_the_same_answer(self) -> None:
        assert self.tokens(self.answer(self.job(1))) == self.tokens(self.answer(self.job(2)))
        other = msgspec.structs.replace(SAMPLING, seed=7)
        assert self.tokens(self.answer(self.job(1))) != self.tokens(self.answer(self.job(1, other)))

    def test_an_answer_does_not_depend_on_the_others(self) -> None:
        engine, wait = self.make()
        made: Made = {}
        for key in range(4):
            engine.add(self.job(key, msgspec.structs.replace(SAMPLING, seed=key), ingress="ab"[key % 2]))
            wait(engine.next_step_s() or 0.0)
            self.collect(made, engine.step())
        self.run(engine, wait, made)
        for key in range(4):
            alone = self.answer(self.job(0, msgspec.structs.replace(SAMPLING, seed=key)))
            assert self.tokens(made[("ab"[key % 2], key, 0)]) == self.tokens(alone)

    def test_a_handed_over_job_goes_on_as_it_would_have(self) -> None:
        whole = self.tokens(self.answer(self.job(1)))
        for cut in range(len(whole)):
            rest = self.answer(self.job(1, generated=[whole[:cut]]))
            assert rest[0].position == cut
            assert self.tokens(rest) == whole[cut:]
            assert rest[-1].finish == "length"

    def test_handed_over_tokens_that_the_engine_chooses_too_do_not_diverge(self) -> None:
        whole = self.tokens(self.answer(self.job(1)))
        engine, wait = self.make()
        for cut in range(len(whole)):
            engine.add(self.job(1, generated=[whole[:cut]]))
            self.run(engine, wait)
        assert engine.statistics().divergences == 0

    @pytest.mark.parametrize("on_divergence", ["continue", "fail"])
    def test_a_handed_over_token_that_the_engine_does_not_choose_is_a_divergence(
        self, on_divergence: Literal["continue", "fail"], caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = self.tokens(self.answer(self.job(1)))
        engine, wait = self.make(msgspec.structs.replace(CONFIG, on_divergence=on_divergence))
        engine.add(self.job(1, generated=[[*whole[:5], whole[5] - 1]]))
        engine.add(self.job(2, generated=[whole[:6]]))
        made = self.run(engine, wait)
        assert engine.statistics().divergences == 1
        assert f"token 5 was sent as {whole[5] - 1} and is recomputed as {whole[5]}" in caplog.text
        assert self.tokens(made["a", 2, 0]) == whole[6:]
        diverged = made["a", 1, 0]
        assert diverged[0].position == 6
        if on_divergence == "fail":
            assert [(batch.token_ids, batch.finish) for batch in diverged] == [([], "error")]
            assert diverged[0].error
        else:
            assert len(self.tokens(diverged)) == 6
            assert diverged[-1].finish == "length"
        # Steered tokens are the client's.
        engine.add(self.job(1, generated=[[*whole[:5], whole[5] - 1]], steered=[6]))
        self.run(engine, wait)
        assert engine.statistics().divergences == 1
        assert engine.statistics().kv_tokens_used == 0

    def test_a_job_with_its_ending_ends_at_once(self) -> None:
        whole = self.tokens(self.answer(self.job(1)))
        (batch,) = self.answer(self.job(1, generated=[whole]))
        assert (batch.position, batch.token_ids, batch.finish) == (12, [], "length")

    def test_choices_differ_and_finished_ones_yield_nothing(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=3))
        made = self.run(engine, wait)
        answers = [self.tokens(made[("a", 1, choice)]) for choice in range(3)]
        assert len({tuple(answer) for answer in answers}) == 3
        engine.add(self.job(1, n=3, generated=answers, finished=[True, True, False]))
        assert list(self.run(engine, wait)) == [("a", 1, 2)]
        engine.add(self.job(1, n=3, generated=answers, finished=[True, True, True]))
        assert not engine.has_work

    def test_a_stop_token_ends_an_answer_but_not_before_min_tokens(self) -> None:
        whole = self.tokens(self.answer(self.job(1)))
        stop = whole[5]
        batches = self.answer(self.job(1, msgspec.structs.replace(SAMPLING, stop_token_ids=(stop,))))
        assert self.tokens(batches) == whole[: whole.index(stop) + 1]
        assert (batches[-1].finish, batches[-1].stop_token) == ("stop", stop)
        late = msgspec.structs.replace(SAMPLING, stop_token_ids=tuple(whole), min_tokens=9, max_tokens=100)
        held = self.tokens(self.answer(self.job(1, late)))
        assert len(held) > 9
        assert not set(held[:9]) & set(whole)

    def test_the_context_ends_an_answer(self) -> None:
        batches = self.answer(self.job(1, msgspec.structs.replace(SAMPLING, max_tokens=1000)))
        assert len(PROMPT) + len(self.tokens(batches)) == 128
        assert batches[-1].finish == "length"

    def test_logprobs_come_with_each_token(self) -> None:
        batches = self.answer(self.job(1, msgspec.structs.replace(SAMPLING, logprobs=4)))
        for batch in batches:
            assert batch.logprobs is not None and len(batch.logprobs) == len(batch.token_ids)
            for logprob in batch.logprobs:
                assert logprob.logprob < 0 and len(logprob.top) == 4
        assert all(batch.logprobs is None for batch in self.answer(self.job(1)))

    def test_abort_is_silent_and_makes_room(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=7))
        with pytest.raises(Overloaded):
            engine.add(self.job(2))
        self.run(engine, wait, steps=2)
        engine.abort("a", 1)
        engine.abort("a", 1)
        assert not engine.has_work
        engine.add(self.job(2))
        assert set(self.run(engine, wait)) == {("a", 2, 0)}
        assert engine.statistics().kv_tokens_used == 0

    def test_a_refused_job_leaves_nothing(self) -> None:
        engine, _ = self.make()
        with pytest.raises(InvalidRequest):
            engine.add(msgspec.structs.replace(self.job(1), prompt=[]))
        with pytest.raises(InvalidRequest):
            engine.add(msgspec.structs.replace(self.job(1), prompt=[engine.vocab_size]))
        with pytest.raises(PromptTooLong):
            engine.add(msgspec.structs.replace(self.job(1), prompt=[1] * engine.max_model_len_tokens))
        with pytest.raises(Overloaded):
            engine.add(self.job(1, n=8))
        assert not engine.has_work
        assert engine.statistics().waiting == 0

    def test_a_paused_stream_is_silent_until_it_goes_on_where_it_was(self) -> None:
        whole = self.tokens(self.answer(self.job(1)))
        engine, wait = self.make()
        engine.add(self.job(1))
        made = self.run(engine, wait, steps=4)
        engine.pause("a", 1)
        engine.pause("a", 1)
        before = len(made.get(("a", 1, 0), []))
        assert engine.statistics().paused == 1
        engine.add(self.job(2))
        self.run(engine, wait, made)
        assert len(made.get(("a", 1, 0), [])) == before
        assert made[("a", 2, 0)][-1].finish == "length"
        engine.resume("a", 1)
        engine.resume("a", 1)
        self.run(engine, wait, made)
        assert self.tokens(made[("a", 1, 0)]) == whole

    def test_a_stream_can_be_paused_before_its_first_token_and_aborted_while_paused(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1))
        engine.pause("a", 1)
        assert engine.next_step_s() is None
        engine.resume("a", 1)
        engine.pause("a", 1)
        engine.abort("a", 1)
        engine.resume("a", 1)
        assert self.run(engine, wait) == {}
        assert engine.statistics().paused == 0

    def test_what_is_put_in_comes_out_once_and_generation_goes_on_from_it(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1))
        made = self.run(engine, wait, steps=4)
        before = self.tokens(made[("a", 1, 0)])
        steering = Steering("s1", [7, 8, 9])
        engine.steer("a", 1, steering)
        engine.steer("a", 1, steering)
        self.run(engine, wait, made)
        batches = made[("a", 1, 0)]
        (steered,) = [batch for batch in batches if batch.edits]
        assert (steered.position, steered.token_ids) == (len(before), [7, 8, 9])
        assert steered.edits == [Edit(id="s1", position=len(before), steered=3)]
        whole = self.tokens(batches)
        assert (len(whole), batches[-1].finish) == (12, "length")
        begun = len(before) + 3
        rest = self.answer(self.job(1, generated=[whole[:begun]], steered=[begun]))
        assert self.tokens(rest) == whole[begun:]
        assert engine.statistics().kv_tokens_used == 0

    @pytest.mark.parametrize("state", ["new", "paused", "waiting"])
    def test_a_stream_can_be_steered_while_it_does_not_run(self, state: str) -> None:
        engine, wait = self.make()
        made: Made = {}
        if state == "waiting":
            engine.add(self.job(2, n=3))
        engine.add(self.job(1))
        if state == "paused":
            self.run(engine, wait, made, steps=3)
            engine.pause("a", 1)
        begun = len(self.tokens(made.get(("a", 1, 0), [])))
        engine.steer("a", 1, Steering("s1", [7, 8]))
        engine.steer("a", 1, Steering("s2", [9]))
        self.run(engine, wait, made, steps=1)
        assert self.tokens(made[("a", 1, 0)])[begun : begun + 3] == [7, 8, 9]
        engine.resume("a", 1)
        self.run(engine, wait, made)
        whole = self.tokens(made[("a", 1, 0)])
        assert len(whole) == 12
        rest = self.answer(self.job(1, generated=[whole[: begun + 3]], steered=[begun + 3]))
        assert self.tokens(rest) == whole[begun + 3 :]
        assert engine.statistics().kv_tokens_used == 0

    def test_what_is_put_in_ends_nothing_but_uses_tokens_up(self) -> None:
        whole = self.tokens(self.answer(self.job(1)))
        stop = whole[11]
        sampling = msgspec.structs.replace(SAMPLING, stop_token_ids=(stop,), logprobs=2)
        engine, wait = self.make()
        engine.add(self.job(1, sampling, n=2))
        made = self.run(engine, wait, steps=3)
        engine.steer("a", 1, Steering("s1", [stop, stop]))
        self.run(engine, wait, made, steps=3)
        engine.steer("a", 1, Steering("s2", [stop] * 50))
        self.run(engine, wait, made)
        for choice in range(2):
            batches = made[("a", 1, choice)]
            first, second = [batch for batch in batches if batch.edits]
            assert first.finish is None
            assert first.logprobs == [TokenLogprob(0.0, [])] * 2
            assert second is batches[-1]
            assert (second.finish, second.stop_token) == ("length", None)
            assert len(self.tokens(batches)) == 12
        assert not engine.has_work
        handed_over = self.answer(self.job(1, sampling, generated=[[7, stop]], steered=[2]))
        assert handed_over[0].token_ids

    def test_only_choices_that_go_on_are_steered(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=2, generated=[[5], [6]], finished=[True, False]))
        engine.steer("a", 1, Steering("s1", [7]))
        assert list(self.run(engine, wait)) == [("a", 1, 1)]

    @pytest.mark.parametrize("state", ["running", "paused", "waiting", "new"])
    def test_a_choice_that_is_ended_is_silent_and_frees_what_it_has(self, state: str) -> None:
        engine, wait = self.make()
        made: Made = {}
        if state == "waiting":
            engine.add(self.job(2, n=2))
        engine.add(self.job(1, n=3))
        if state != "new":
            self.run(engine, wait, made, steps=4)
        if state == "paused":
            engine.pause("a", 1)
        before = engine.statistics()
        tokens = len(self.tokens(made.get(("a", 1, 2), [])))
        engine.end("a", 1, 2)
        engine.end("a", 1, 2)
        after = engine.statistics()
        assert (
            after.running + after.waiting + after.paused
            == before.running + before.waiting + before.paused - 1
        )
        if state == "running":
            assert tokens and after.kv_tokens_used < before.kv_tokens_used
        assert engine.next_step_s() == 0
        self.collect(made, engine.step())
        last = made["a", 1, 2][-1]
        assert (last.position, last.token_ids, last.finish, last.stop_token) == (tokens, [], "stop", None)
        engine.resume("a", 1)
        self.run(engine, wait, made)
        whole = self.answer_of_three()
        assert [self.tokens(made["a", 1, choice]) for choice in range(2)] == whole[:2]
        assert self.tokens(made["a", 1, 2]) == whole[2][:tokens]
        assert not engine.has_work
        assert engine.statistics().kv_tokens_used == 0

    def answer_of_three(self) -> list[list[int]]:
        engine, wait = self.make()
        engine.add(self.job(1, n=3))
        made = self.run(engine, wait)
        return [self.tokens(made["a", 1, choice]) for choice in range(3)]

    def test_a_choice_that_is_ended_makes_room_and_the_last_one_ends_the_stream(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=7))
        self.run(engine, wait, steps=2)
        for choice in (0, 6):
            engine.end("a", 1, choice)
        engine.add(self.job(2, n=2))
        for choice in range(7):
            engine.end("a", 1, choice)
        self.run(engine, wait)
        engine.add(self.job(1))
        assert len(self.tokens(self.run(engine, wait)["a", 1, 0])) == 12
        assert not engine.has_work

    def test_an_end_that_comes_too_late_or_too_early_does_nothing(self) -> None:
        engine, wait = self.make()
        engine.end("a", 1, 0)
        engine.add(self.job(1, n=2, generated=[[5], [6]], finished=[True, False]))
        engine.end("a", 1, 0)
        engine.end("a", 1, 2)
        engine.end("b", 1, 1)
        assert list(self.run(engine, wait)) == [("a", 1, 1)]
        engine.end("a", 1, 1)
        engine.add(self.job(2))
        engine.end("a", 2, 0)
        engine.abort("a", 2)
        assert self.run(engine, wait) == {}
        assert not engine.has_work

    def test_tokens_that_are_none_end_the_stream_with_an_error(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=2))
        engine.add(self.job(2))
        engine.steer("a", 1, Steering("s1", [engine.vocab_size]))
        made = self.run(engine, wait)
        assert {made[("a", 1, choice)][-1].finish for choice in range(2)} == {"error"}
        assert made[("a", 2, 0)][-1].finish == "length"

    def test_a_stream_that_is_gone_cannot_be_steered(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1))
        engine.steer("a", 1, Steering("s1", [7]))
        engine.abort("a", 1)
        engine.steer("a", 1, Steering("s2", [7]))
        assert self.run(engine, wait) == {}
        engine.add(self.job(1))
        engine.steer("a", 1, Steering("s1", [7]))
        assert self.tokens(self.run(engine, wait)[("a", 1, 0)])[0] == 7

    def test_unknown_streams_are_no_error(self) -> None:
        engine, _ = self.make()
        engine.steer("a", 1, Steering("s1", [7]))
        engine.abort("a", 1)
        engine.end("a", 1, 0)
        engine.pause("a", 1)
        engine.resume("a", 1)
        assert not engine.has_work

    def test_streams_of_different_ingresses_may_have_the_same_key(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, ingress="a"))
        engine.add(self.job(1, ingress="b"))
        with pytest.raises(InvalidRequest):
            engine.add(self.job(1, ingress="b"))
        engine.abort("a", 1)
        assert set(self.run(engine, wait)) == {("b", 1, 0)}

    def test_fail_all_ends_everything_with_an_error(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=5))
        engine.add(self.job(2, ingress="b"))
        made = self.run(engine, wait, steps=3)
        engine.pause("b", 2)
        self.collect(made, engine.fail_all("It broke."))
        assert len(made) == 6
        assert {(batches[-1].finish, batches[-1].error) for batches in made.values()} == {
            ("error", "It broke.")
        }
        assert not engine.has_work
        assert engine.statistics().kv_tokens_used == 0

    def test_progress_is_reported_in_every_step(self) -> None:
        engine, wait = self.make()
        reports = 0

        def progress() -> None:
            nonlocal reports
            reports += 1

        engine.progress = progress
        engine.add(self.job(1))
        for _ in range(5):
            before = reports
            wait(engine.next_step_s() or 0.0)
            engine.step()
            assert reports > before

    def test_statistics_count(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=5))
        self.run(engine, wait, steps=2)
        statistics = engine.statistics()
        assert statistics.running + statistics.waiting == 5
        assert statistics.running <= 3
        assert 0 < statistics.kv_tokens_used <= statistics.kv_tokens_total
        self.run(engine, wait)
        statistics = engine.statistics()
        assert (statistics.running, statistics.waiting, statistics.paused) == (0, 0, 0)
        assert statistics.generated_tokens == 60
        assert statistics.failed_steps == 0

    def test_the_queue_is_as_old_as_its_oldest_sequence(self) -> None:
        engine, wait = self.make()
        engine.add(self.job(1, n=4))
        self.run(engine, wait, steps=3)
        wait(2.0)
        engine.add(self.job(2))
        engine.pause("a", 2)
        wait(3.0)
        engine.resume("a", 2)
        assert engine.statistics().waiting == 2
        assert 5.0 <= engine.statistics().queue_s < 65.0
        engine.abort("a", 1)
        engine.add(self.job(3, n=4))
        wait(1.0)
        assert 1.0 <= engine.statistics().queue_s < 61.0
        self.run(engine, wait)
        assert engine.statistics().queue_s == 0
