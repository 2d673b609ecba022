"""CPU time to record a token in the stream store: in the ingress and in the store's process, without the link between them.

    python -m benchmarks.recording [--streams 96] [--rounds 2000]

Real streams get one token each, then the recorder writes them in one call, as it does every 20 ms. The call stays in this
process, and its time has two parts. The store's part is to decode the call, take the tokens and encode the answer; the
ingress's part is the rest, from the wake-up of the recorder on. The output is CPU time per token: the median round and the
tenth percentile, which is the better figure on a machine that runs other programs.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence

import click
import uvloop
from tokenizers import Tokenizer

from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingParams
from app.schema.tokens import TokenBatch
from app.settings import ModelSettings
from app.streams.choice import Choice
from app.streams.recorder import Recorder
from app.streams.store import StreamRecord
from app.streams.store_bounds import StoreBounds
from app.streams.stream import Stream
from app.text.pipeline import ChoiceText
from benchmarks.serve.summary import quantiles
from deployments.ingress.store_client import StreamStoreClient
from deployments.model.files import load_tokenizer, model_path, printable_token_ids
from deployments.stream_store.deployment import StreamStore

WARM_UP_ROUNDS = 50
PRODUCER = secrets.token_hex(8)


class TimedLink:
    """Implements `deployments.links.link.Link` over a store in this process, and takes the time of each call."""

    def __init__(self, store: StreamStore) -> None:
        self.calls = 0
        self.bytes = 0
        self.last_ns = 0
        self._store = store

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        began_ns = time.thread_time_ns()
        answer = await self._store.call(request)
        self.last_ns = time.thread_time_ns() - began_ns
        self.calls += 1
        self.bytes = len(request)
        return answer


class LeapingClock:
    """Each reading is a second later than the last, so that the recorder never waits."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def time(self) -> float:
        return self._now_s

    def monotonic(self) -> float:
        self._now_s += 1.0
        return self._now_s

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(0)


def make_stream(recorder: Recorder, tokenizer: Tokenizer) -> Stream:
    """A stream with one choice and without readers."""
    request = GenerationRequest(model="m", prompt="x", sampling=SamplingParams(max_tokens=100_000))
    record = StreamRecord(
        id=f"st_{secrets.token_hex(16)}",
        owner="ann",
        request=request,
        prompt=[1],
        sampling=request.sampling,
        created_s=0.0,
    )
    return Stream(
        record,
        [Choice(ChoiceText(tokenizer, record.prompt), lambda token_ids, logprobs: [])],
        began_s=0.0,
        clock=LeapingClock(),
        window_tokens=1_000_000,
        on_changed=recorder.changed,
        on_left=lambda stream: None,
    )


async def measure(streams_number: int, rounds: int) -> tuple[list[float], list[float], int]:
    """Microseconds per token of each round, in the ingress and in the store, and the bytes of a call."""
    link = TimedLink(StreamStore(StoreBounds(max_tokens=1_000_000_000), list))
    client = StreamStoreClient.over(link)
    recorder = Recorder(client, PRODUCER, LeapingClock(), on_stale=lambda stream: None)
    tokenizer = load_tokenizer(model_path(ModelSettings(name="m")))
    token_ids, draw = printable_token_ids(tokenizer), random.Random(1)
    streams = [make_stream(recorder, tokenizer) for _ in range(streams_number)]
    for stream in streams:
        await client.create(stream.record, PRODUCER)
        recorder.start(stream, 1, [0])
    recording = asyncio.create_task(recorder.run())
    ingress, store = [], []
    for position in range(WARM_UP_ROUNDS + rounds):
        for stream in streams:
            stream.feed(TokenBatch(0, 0, position, [draw.choice(token_ids)]))
        calls = link.calls
        began_ns = time.thread_time_ns()
        while link.calls == calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        ingress.append((time.thread_time_ns() - began_ns - link.last_ns) / streams_number / 1e3)
        store.append(link.last_ns / streams_number / 1e3)
    recording.cancel()
    return ingress[WARM_UP_ROUNDS:], store[WARM_UP_ROUNDS:], link.bytes


def show(title: str, costs: Sequence[float]) -> None:
    deciles = quantiles(costs, 10)
    print(f"{title}: {deciles[4]:.2f} µs/token, tenth percentile {deciles[0]:.2f}")


@click.command()
@click.option("--streams", default=96, show_default=True)
@click.option("--rounds", default=2000, show_default=True)
def main(streams: int, rounds: int) -> None:
    """Print the cost of recording a token."""
    ingress, store, length = uvloop.run(measure(streams, rounds))
    show("ingress", ingress)
    show("store", store)
    print(f"a call: {length / streams:.1f} bytes/token")


if __name__ == "__main__":
    main()
