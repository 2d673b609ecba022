from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from app.schema.tokens import TokenBatch, TokenLogprob
from deployments.generator.outbox import MERGE_FROM_BATCHES, Outbox, OutboxReader, merge
from deployments.messages.call import encode
from deployments.messages.generation import ChannelMessage, decode_message
from tests.fakes.loop import run


def token(key: int, position: int) -> TokenBatch:
    return TokenBatch(key, 0, position, [position])


async def read(reader: OutboxReader) -> ChannelMessage:
    message = await reader.next()
    assert message is not None
    return decode_message(message)


def test_message_is_compact() -> None:
    message = ChannelMessage(7, [TokenBatch(1, 0, 3, [512])])
    assert encode(message) == b"\x92\x07\x91\x99\x01\x00\x03\x91\xcd\x02\x00\xc0\xc0\xc0\xc0\xc0"


def test_first_message_says_that_the_channel_is_open() -> None:
    async def main() -> None:
        reader = Outbox().attach(0)
        assert await read(reader) == ChannelMessage(0, [])

    run(main())


def test_steps_that_wait_go_as_one_message() -> None:
    async def main() -> None:
        outbox = Outbox()
        outbox.put([token(1, 0), token(2, 0)])
        outbox.put([token(1, 1)])
        reader = outbox.attach(0)
        assert await read(reader) == ChannelMessage(1, [token(1, 0), token(2, 0), token(1, 1)])

    run(main())


def test_waiting_reader_wakes_for_a_step_and_for_a_beat() -> None:
    async def main() -> None:
        outbox = Outbox()
        reader = outbox.attach(0)
        await read(reader)
        waiting = asyncio.create_task(read(reader))
        await asyncio.sleep(0)
        outbox.put([token(1, 0)])
        assert (await waiting).number == 1
        waiting = asyncio.create_task(read(reader))
        await asyncio.sleep(0)
        outbox.beat()
        assert await waiting == ChannelMessage(1, [])

    run(main())


def test_a_new_reader_gets_what_the_old_one_lost() -> None:
    async def main() -> None:
        outbox = Outbox()
        first = outbox.attach(0)
        await read(first)
        for position in range(3):
            outbox.put([token(1, position)])
            await read(first)
        outbox.put([token(1, 3)])
        second = outbox.attach(1)
        messages = [await read(second) for _ in range(3)]
        assert [message.number for message in messages] == [2, 3, 4]
        assert messages[2].batches == [token(1, 3)]
        assert await first.next() is None
        first.close()
        assert outbox.attached
        second.close()
        assert not outbox.attached

    run(main())


def test_a_new_outbox_counts_on_from_the_reader() -> None:
    async def main() -> None:
        outbox = Outbox()
        outbox.put([token(1, 0)])
        reader = outbox.attach(57)
        assert (await read(reader)).number == 58

    run(main())


def test_what_is_kept_no_more_shows_as_a_gap() -> None:
    async def main() -> None:
        outbox = Outbox(sent_limit_bytes=40)
        first = outbox.attach(0)
        await read(first)
        for position in range(10):
            outbox.put([token(1, position)])
            await read(first)
        second = outbox.attach(1)
        assert (await read(second)).number > 2

    run(main())


def test_what_waits_is_merged_when_it_is_much() -> None:
    outbox = Outbox()
    for position in range(3 * MERGE_FROM_BATCHES):
        outbox.put([TokenBatch(1, 0, position, [position]), TokenBatch(1, 1, position, [position])])
    message = outbox.take()
    assert message is not None
    waited = decode_message(message).batches
    assert len(waited) < MERGE_FROM_BATCHES
    batches = merge(waited)
    assert batches == [TokenBatch(1, choice, 0, list(range(3 * MERGE_FROM_BATCHES))) for choice in range(2)]


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1), st.integers(0, 3), st.booleans()), max_size=40)
)
def test_merging_keeps_every_token_and_its_place(steps: list[tuple[int, int, int, bool]]) -> None:
    counts: dict[tuple[int, int], int] = {}
    ended: set[tuple[int, int]] = set()
    batches = []
    for key, choice, size, last in steps:
        if (key, choice) in ended:
            continue
        position = counts.get((key, choice), 0)
        counts[key, choice] = position + size
        ids = list(range(position, position + size))
        logprobs = [TokenLogprob(-float(token_id), []) for token_id in ids] if key == 1 else None
        batches.append(TokenBatch(key, choice, position, ids, "stop" if last else None, logprobs=logprobs))
        if last:
            ended.add((key, choice))
    merged = {(batch.key, batch.choice): batch for batch in merge(batches)}
    assert len(merged) == len(merge(batches)) == len(counts)
    for place, count in counts.items():
        batch = merged[place]
        assert (batch.position, batch.token_ids) == (0, list(range(count)))
        assert batch.finish == ("stop" if place in ended else None)
        assert batch.logprobs is None or [entry.logprob for entry in batch.logprobs] == [
            -float(i) for i in range(count)
        ]
