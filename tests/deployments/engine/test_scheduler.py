from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.schema.sampling import SamplingParams
from app.schema.tokens import Job
from deployments.engine.config import EngineConfig
from deployments.engine.key_count import key_count
from deployments.engine.kv_cache import KVCache
from deployments.engine.scheduler import COMPUTED_PER_TOKEN, MOST_PASSES, Chunk, Scheduler
from deployments.engine.sequence import Sequence, State


def make_scheduler(**changes: Any) -> tuple[Scheduler, KVCache]:
    bounds = {"max_model_len_tokens": 512, "kv_cache_tokens": 4096, "prefill_chunk_tokens": 64, **changes}
    config = EngineConfig(max_running_sequences=bounds.pop("max_running_sequences", 4), **bounds)
    assert config.max_model_len_tokens is not None
    cache = KVCache([], config.kv_cache_tokens, config.max_model_len_tokens, torch.device("cpu"))
    return Scheduler(config, cache), cache


def make_sequence(
    length: int, arrival: int, n: int = 1, choice: int = 0, *, on_trial: bool = False
) -> Sequence:
    sampling = SamplingParams(max_tokens=999)
    job = Job(ingress="", key=arrival, prompt=[1] * length, sampling=sampling, n=n, on_trial=on_trial)
    return Sequence(job, choice, 512, arrival)


def add(scheduler: Scheduler, *lengths: int) -> list[Sequence]:
    sequences = [make_sequence(length, arrival) for arrival, length in enumerate(lengths)]
    for sequence in sequences:
        scheduler.add(sequence)
    return sequences


def run(chunks: list[Chunk]) -> None:
    """What the engine does with the chunks, without a model."""
    for chunk in chunks:
        extent = chunk.sequence.extent
        assert extent is not None
        assert chunk.start == chunk.sequence.computed
        assert chunk.end <= min(extent.capacity, len(chunk.sequence.tokens))
        samples = chunk.samples
        chunk.sequence.computed = chunk.end
        if samples:
            chunk.sequence.append(2)


def counts(chunks: list[Chunk]) -> dict[int, int]:
    return {chunk.sequence.arrival: chunk.count for chunk in chunks}


def test_several_prompts_share_a_step_where_they_fit() -> None:
    scheduler, _ = make_scheduler()
    add(scheduler, 20, 30, 40)
    chunks = scheduler.schedule()
    assert counts(chunks) == {0: 20, 1: 30, 2: 14}
    run(chunks)
    assert counts(scheduler.schedule()) == {0: 1, 1: 1, 2: 26}


def test_running_streams_get_a_token_in_every_step_of_a_long_prompt() -> None:
    scheduler, _ = make_scheduler()
    add(scheduler, 10, 400)
    run(scheduler.schedule())
    for step in range(5):
        chunks = scheduler.schedule()
        assert counts(chunks)[0] == 1
        assert counts(chunks)[1] == 64, step
        run(chunks)


def test_no_more_run_than_there_are_places() -> None:
    scheduler, _ = make_scheduler(max_running_sequences=2)
    first, _, third = add(scheduler, 5, 5, 5)
    run(scheduler.schedule())
    assert len(scheduler.running) == 2
    scheduler.remove(first)
    assert counts(scheduler.schedule())[2] == 5
    assert third.state is State.RUNNING


def test_the_youngest_is_preempted_and_comes_back_before_those_who_came_later() -> None:
    scheduler, cache = make_scheduler(kv_cache_tokens=512, prefill_chunk_tokens=512)
    sequences = add(scheduler, 127, 127, 127, 127, 5)
    run(scheduler.schedule())
    assert [s.arrival for s in scheduler.running] == [0, 1, 2, 3]
    run(scheduler.schedule())
    chunks = scheduler.schedule()
    assert scheduler.preemptions == 2
    assert counts(chunks) == {0: 1, 1: 1}
    assert [s.arrival for s in scheduler.waiting] == [2, 3, 4]
    assert sequences[3].computed == 0 and sequences[3].extent is None
    assert cache.used_tokens == 2 * 192, "the two that grew"


def test_the_last_one_running_is_never_preempted_by_itself() -> None:
    scheduler, _ = make_scheduler(kv_cache_tokens=512)
    add(scheduler, 500)
    while len(scheduler.running) == 0 or len(scheduler.running[0].tokens) < 512:
        run(scheduler.schedule())
    assert scheduler.preemptions == 0


def test_a_paused_sequence_leaves_the_batch_and_keeps_its_memory() -> None:
    scheduler, cache = make_scheduler()
    first, second = add(scheduler, 5, 5)
    run(scheduler.schedule())
    scheduler.pause(first)
    scheduler.pause(first)
    assert counts(scheduler.schedule()) == {1: 1}
    assert first.extent is not None and first.computed == 5
    assert cache.used_tokens == 256
    scheduler.resume(first)
    scheduler.resume(first)
    assert sorted(counts(scheduler.schedule())) == [0, 1]
    assert second.state is State.RUNNING


def test_the_memory_of_a_paused_sequence_is_taken_before_anyone_is_preempted() -> None:
    scheduler, _ = make_scheduler(kv_cache_tokens=512, prefill_chunk_tokens=512)
    first, *_ = add(scheduler, 100, 100, 100, 100)
    run(scheduler.schedule())
    scheduler.pause(first)
    scheduler.add(make_sequence(100, 9))
    assert counts(scheduler.schedule())[9] == 100
    assert scheduler.preemptions == 0
    assert first.extent is None and first.computed == 0
    scheduler.resume(first)
    assert scheduler.waiting == [first]


def test_a_paused_sequence_gives_its_running_place_away() -> None:
    scheduler, _ = make_scheduler(max_running_sequences=1)
    first, second = add(scheduler, 5, 5)
    run(scheduler.schedule())
    scheduler.pause(first)
    assert counts(scheduler.schedule()) == {1: 5}
    scheduler.pause(second)
    scheduler.resume(first)
    assert counts(scheduler.schedule()) == {0: 1}


def test_a_sequence_resumes_at_the_end_of_its_extent() -> None:
    scheduler, _ = make_scheduler(prefill_chunk_tokens=128)
    (sequence,) = add(scheduler, 128)
    run(scheduler.schedule())
    scheduler.pause(sequence)
    scheduler.resume(sequence)
    run(scheduler.schedule())
    assert sequence.extent is not None and sequence.extent.capacity == 256


def test_the_choices_of_a_stream_compute_their_prompt_once() -> None:
    scheduler, _ = make_scheduler(prefill_chunk_tokens=32)
    choices = [make_sequence(100, 10 + choice, 3, choice) for choice in range(3)]
    for sequence in choices:
        sequence.siblings = choices
        scheduler.add(sequence)
    computed = 0
    while any(sequence.position == 0 for sequence in choices):
        chunks = scheduler.schedule()
        computed += sum(chunk.count for chunk in chunks if chunk.start < 100)
        run(chunks)
    assert computed == 100 + 2
    assert choices[2].computed >= 100


def test_removing_frees_the_memory_in_every_state() -> None:
    scheduler, cache = make_scheduler(max_running_sequences=2)
    first, second, third = add(scheduler, 5, 5, 5)
    run(scheduler.schedule())
    scheduler.pause(second)
    for sequence in (first, second, third, third):
        scheduler.remove(sequence)
    assert cache.used_tokens == 0
    assert len(scheduler) == 0
    assert scheduler.schedule() == []


def test_what_is_put_into_a_running_sequence_is_computed_like_a_prompt_beside_the_others() -> None:
    scheduler, _ = make_scheduler()
    _, steered = add(scheduler, 10, 10)
    run(scheduler.schedule())
    steered.steer([2] * 100)
    for count in (64, 37, 1):
        chunks = scheduler.schedule()
        assert counts(chunks) == {0: 1, 1: count}
        run(chunks)


def test_room_for_what_is_put_in_is_taken_from_the_youngest() -> None:
    scheduler, cache = make_scheduler(kv_cache_tokens=512, prefill_chunk_tokens=512, max_model_len_tokens=512)
    oldest, middle, youngest = add(scheduler, 120, 120, 120)
    run(scheduler.schedule())
    run(scheduler.schedule())
    oldest.steer([2] * 150)
    run(scheduler.schedule())
    assert (oldest.state, youngest.state) == (State.RUNNING, State.WAITING)
    assert oldest.remaining == 1 and middle.state is not State.GONE
    for sequence in (oldest, middle, youngest):
        scheduler.remove(sequence)
    assert cache.used_tokens == 0


@given(
    kv_tokens=st.sampled_from([512, 640, 1024, 8192]),
    chunk_tokens=st.sampled_from([1, 7, 64, 512]),
    events=st.lists(
        st.tuples(
            st.sampled_from(["add", "fork", "pause", "resume", "remove", "steer", "step"]),
            st.integers(0, 500),
        ),
        max_size=60,
    ),
)
def test_whatever_happens_everyone_ends_and_no_memory_is_left(
    kv_tokens: int, chunk_tokens: int, events: list[tuple[str, int]]
) -> None:
    scheduler, cache = make_scheduler(kv_cache_tokens=kv_tokens, prefill_chunk_tokens=chunk_tokens)
    live: list[Sequence] = []
    arrivals = 0
    for event, number in events:
        if event in ("add", "fork"):
            count = 3 if event == "fork" else 1
            new = [make_sequence(number + 1, arrivals + choice, count, choice) for choice in range(count)]
            arrivals += count
            for sequence in new:
                sequence.siblings = new
                scheduler.add(sequence)
            live += new
        elif event == "step":
            step(scheduler, chunk_tokens)
        elif event == "steer" and live:
            sequence = live[number % len(live)]
            if sequence.state is not State.GONE:
                sequence.steer([2] * min(number, 511 - len(sequence.tokens)))
        elif live:
            sequence = live[number % len(live)]
            {"pause": scheduler.pause, "resume": scheduler.resume, "remove": scheduler.remove}[event](
                sequence
            )
    for sequence in live:
        scheduler.resume(sequence)
    for _ in range(20000):
        if len(scheduler) == 0:
            break
        step(scheduler, chunk_tokens)
        for sequence in list(scheduler.running):
            if sequence.position >= 3 or len(sequence.tokens) >= 512:
                scheduler.remove(sequence)
    assert len(scheduler) == 0
    assert cache.used_tokens == 0


def step(scheduler: Scheduler, chunk_tokens: int) -> None:
    before = [sequence for sequence in scheduler.running if sequence.remaining == 1]
    resumed = [s for s in scheduler.waiting if s.extent is not None and s.remaining == 1]
    idle = not scheduler.running and not scheduler.waiting
    preemptions = scheduler.preemptions
    chunks = scheduler.schedule()
    assert bool(chunks) != idle
    assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks)
    assert sum(chunk.count for chunk in chunks if chunk.sequence not in before + resumed) <= chunk_tokens
    assert len(scheduler.running) <= 4
    decoded = {id(chunk.sequence) for chunk in chunks}
    left_out = [sequence for sequence in before if id(sequence) not in decoded]
    # One that is resumed may take the place of the youngest.
    assert len(left_out) <= scheduler.preemptions - preemptions + len(resumed)
    run(chunks)
    for sequence in list(scheduler.running):
        if len(sequence.tokens) >= 512:
            scheduler.remove(sequence)


def test_a_resumed_sequence_gets_its_token_in_the_next_step_of_a_long_prompt() -> None:
    scheduler, _ = make_scheduler()
    [first] = add(scheduler, 10)
    run(scheduler.schedule())
    scheduler.pause(first)
    scheduler.add(make_sequence(400, 1))
    run(scheduler.schedule())
    scheduler.resume(first)
    assert counts(scheduler.schedule())[0] == 1


def test_a_resumed_sequence_takes_the_place_of_the_youngest_which_keeps_its_memory() -> None:
    scheduler, _ = make_scheduler(max_running_sequences=2)
    first, second, third = add(scheduler, 5, 5, 5)
    run(scheduler.schedule())
    scheduler.pause(first)
    run(scheduler.schedule())
    assert third in scheduler.running
    scheduler.resume(first)
    chunks = scheduler.schedule()
    assert counts(chunks) == {0: 1, 1: 1}
    assert third in scheduler.waiting and third.extent is not None and third.computed == 5
    run(chunks)
    # The younger one does not push out an older one.
    assert counts(scheduler.schedule()) == {0: 1, 1: 1}
    scheduler.remove(second)
    assert counts(scheduler.schedule()) == {0: 1, 2: 1}
    assert scheduler.preemptions == 0


def test_one_on_trial_is_computed_at_once_in_the_place_of_the_youngest() -> None:
    scheduler, _ = make_scheduler(max_running_sequences=2)
    first, second, third = add(scheduler, 5, 5, 5)
    run(scheduler.schedule())
    tried = make_sequence(7, 3, on_trial=True)
    scheduler.add(tried)
    chunks = scheduler.schedule()
    assert [(chunk.sequence, chunk.count) for chunk in chunks] == [(first, 1), (tried, 7)]
    run(chunks)
    assert scheduler.waiting == [second, third] and second.computed == 5, "it keeps its memory"
    scheduler.remove(first)
    run(scheduler.schedule())
    assert scheduler.running == [tried, second]


@pytest.mark.parametrize("n", [1, 2])
def test_nobody_has_two_chunks_in_the_step_of_a_long_trial(n: int) -> None:
    scheduler, _ = make_scheduler(max_running_sequences=2)
    add(scheduler, 5, 5)
    run(scheduler.schedule())
    tried = [make_sequence(300, 3 + choice, n, choice, on_trial=True) for choice in range(n)]
    for sequence in tried:
        sequence.siblings = tried
        scheduler.add(sequence)
    for _ in range(12):
        chunks = scheduler.schedule()
        assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks)
        run(chunks)
    assert tried[0].position > 0


def test_one_on_trial_that_finds_no_memory_takes_no_place() -> None:
    scheduler, _ = make_scheduler(max_running_sequences=2, kv_cache_tokens=512)
    first, second = add(scheduler, 180, 180)
    for _ in range(8):
        run(scheduler.schedule())
    scheduler.add(make_sequence(300, 3, on_trial=True))
    for _ in range(3):
        chunks = scheduler.schedule()
        assert [(chunk.sequence, chunk.count) for chunk in chunks] == [(first, 1), (second, 1)]
        run(chunks)


def test_choices_on_trial_do_not_take_the_places_of_each_other() -> None:
    scheduler, _ = make_scheduler(max_running_sequences=1)
    choices = [make_sequence(5, choice, 2, choice, on_trial=True) for choice in range(2)]
    for choice in choices:
        scheduler.add(choice)
    for _ in range(3):
        [chunk] = scheduler.schedule()
        assert chunk.sequence is choices[0]
        run([chunk])


def test_a_reader_that_pauses_after_each_token_has_not_everything_computed_for_each() -> None:
    """Another stream takes its memory in every pause."""
    scheduler, _ = make_scheduler(kv_cache_tokens=512, prefill_chunk_tokens=512)
    [slow] = add(scheduler, 300)
    computed = 0
    for turn in range(200):
        scheduler.resume(slow)
        chunks = scheduler.schedule()
        computed += sum(chunk.count for chunk in chunks if chunk.sequence is slow)
        run(chunks)
        scheduler.pause(slow)
        if slow.state is State.PAUSED:
            greedy = make_sequence(300, 100 + turn)
            scheduler.add(greedy)
            run(scheduler.schedule())
            assert slow.extent is None
            scheduler.remove(greedy)
    assert slow.position > 100
    assert computed < 300 + (COMPUTED_PER_TOKEN + 5) * slow.position


def test_a_pause_that_was_put_off_happens_or_is_forgotten() -> None:
    scheduler, _ = make_scheduler(prefill_chunk_tokens=512)
    [sequence] = add(scheduler, 100)
    run(scheduler.schedule())
    scheduler.pause(sequence)
    scheduler.release(sequence)
    scheduler.resume(sequence)
    run(scheduler.schedule())
    scheduler.pause(sequence)
    assert sequence in scheduler.running
    scheduler.resume(sequence)
    for _ in range(30):
        run(scheduler.schedule())
    scheduler.release(sequence)
    scheduler.pause(sequence)
    assert sequence in scheduler.paused
    scheduler.resume(sequence)
    run(scheduler.schedule())
    scheduler.pause(sequence)
    for _ in range(30):
        run(scheduler.schedule())
    assert sequence in scheduler.paused and sequence.position == 32 + 16


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    scheduler, _ = make_scheduler()
    add(scheduler, 400)
    run(scheduler.schedule())
    scheduler.add(make_sequence(3, 1))
    chunks = scheduler.schedule()
    assert counts(chunks) == {0: 61, 1: 3}
    run(chunks)


def test_the_oldest_prompt_gets_half_of_the_budget_whatever_comes_after_it() -> None:
    scheduler, _ = make_scheduler(max_running_sequences=8)
    [long] = add(scheduler, 400)
    run(scheduler.schedule())
    arrival = 1
    while long.remaining > 1:
        for _ in range(3):
            scheduler.add(make_sequence(40, arrival))
            arrival += 1
        chunks = scheduler.schedule()
        assert sum(chunk.count for chunk in chunks if chunk.count > 1) <= 64
        assert counts(chunks)[0] >= min(32, long.remaining)
        run(chunks)
        for sequence in list(scheduler.running):
            if sequence.position > 1:
                scheduler.remove(sequence)
    assert arrival < 3 * 12 + 2


def test_short_ones_pass_a_long_one_that_finds_no_memory_but_not_forever() -> None:
    scheduler, _ = make_scheduler(kv_cache_tokens=1024, prefill_chunk_tokens=512, max_running_sequences=100)
    holder = make_sequence(450, 0)
    long = make_sequence(500, 2)
    for sequence in (holder, make_sequence(100, 1), long):
        scheduler.add(sequence)
    for _ in range(3):
        run(scheduler.schedule())
    assert long.state is State.WAITING and len(scheduler.running) == 2
    passed = 0
    for arrival in range(3, 100):
        short = make_sequence(20, arrival)
        scheduler.add(short)
        run(scheduler.schedule())
        if short.state is State.WAITING:
            break
        passed += 1
        scheduler.remove(short)
    assert passed == MOST_PASSES
    scheduler.remove(holder)
    assert counts(scheduler.schedule())[2] > 1
    assert long.passed == 0


def test_no_idle_sequence_loses_its_memory_for_one_that_finds_none_anyway() -> None:
    scheduler, _ = make_scheduler(kv_cache_tokens=960, prefill_chunk_tokens=512)
    idle, *_ = add(scheduler, 100, 450)
    for _ in range(2):
        run(scheduler.schedule())
    scheduler.pause(idle)
    long = make_sequence(510, 2)
    scheduler.add(long)
    run(scheduler.schedule())
    assert long.state is State.WAITING
    assert idle.extent is not None and idle.computed > 100


LARGE: dict[str, int] = {
    "kv_cache_tokens": 65536,
    "max_model_len_tokens": 32768,
    "prefill_chunk_tokens": 65536,
    "max_running_sequences": 64,
}


def place_of(sequence: Sequence) -> int:
    return sequence.extent.offset if sequence.extent else 0


def test_one_that_outgrows_its_place_takes_nothing_from_others_while_memory_is_free() -> None:
    """A third of the memory is in use, in pieces."""
    scheduler, cache = make_scheduler(**LARGE)
    oldest, *others = add(scheduler, 4000, *[1500] * 30)
    run(scheduler.schedule())
    for number, sequence in enumerate(sorted(others, key=place_of)):
        if number % 4 != 1:
            scheduler.remove(sequence)
    assert cache.used_tokens < 24000
    while len(oldest.tokens) < 4200:
        run(scheduler.schedule())
    assert scheduler.preemptions == 0


def test_a_prompt_gets_the_free_memory_wherever_it_lies() -> None:
    """Half of the memory is in use, each second place."""
    scheduler, _ = make_scheduler(**LARGE)
    sequences = add(scheduler, *[1500] * 32)
    run(scheduler.schedule())
    for sequence in sorted(sequences, key=place_of)[::2]:
        scheduler.remove(sequence)
    for arrival, length in enumerate((3000, 20000, 100), 100):
        scheduler.add(make_sequence(length, arrival))
    assert {100: 3000, 101: 20000, 102: 100}.items() <= counts(scheduler.schedule()).items()


@settings(max_examples=30)
@given(
    median=st.sampled_from([150, 250, 400]),
    total=st.sampled_from([8192, 10000, 20000]),
    seed=st.integers(0, 2**32),
)
def test_nobody_waits_or_is_preempted_below_nine_tenths_of_use(median: int, total: int, seed: int) -> None:
    """Use is what attention reads for the tokens; of the real tokens nine tenths are used where sequences are not very short."""
    source = Random(seed)
    scheduler, _ = make_scheduler(
        kv_cache_tokens=total, prefill_chunk_tokens=2048, max_running_sequences=1000, max_model_len_tokens=512
    )
    arrival = 0
    for _ in range(60):
        while len(scheduler.waiting) < 3:
            length = min(500, max(20, int(median * source.lognormvariate(0, 0.8))))
            scheduler.add(make_sequence(length, arrival))
            arrival += 1
        preemptions = scheduler.preemptions
        held = [sequence for sequence in scheduler.running if sequence.extent is not None]
        needed = sum(key_count(len(sequence.tokens) + 1) for sequence in held)
        run(scheduler.schedule())
        if scheduler.preemptions > preemptions:
            assert needed > 0.9 * total
        for sequence in list(scheduler.running):
            if len(sequence.tokens) >= 511 or source.randrange(100) == 0:
                scheduler.remove(sequence)
