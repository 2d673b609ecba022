"""What it costs to record a token in the log of streams: in the ingress and in the log's process, without the link between them.

    python benchmarks/recording.py [--streams 96] [--rounds 2000]

Real streams are fed one token each, then the recorder writes them in one call, as it does every 20 ms. The call is made in this
process, and its time is taken in parts: the log's is that of decoding the call, taking the tokens and encoding the answer, the
ingress's is the rest, from the wake-up of the recorder on. Printed is the processor time per token: the median round and the
round at the tenth percentile, which says more on a machine that others use, too.
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
from app.streams.log import StreamRecord
from app.streams.memory_log import LogBounds
from app.streams.recorder import Recorder
from app.streams.stream import Stream
from app.text.pipeline import ChoiceText
from deployments.model_files import load_tokenizer, model_path, printable_token_ids
from deployments.stream_log import StreamLog
from deployments.stream_log_client import StreamLogClient

WARM_UP_ROUNDS = 50
DRIVER = secrets.token_hex(8)


class TimedLink:
    """Implements `deployments.link.Link` over a log in this process, and takes the time of each call."""

    def __init__(self, log: StreamLog) -> None:
        self.calls = 0
        self.bytes = 0
        self.last_ns = 0
        self._log = log

    async def call(self, request: bytes, timeout_s: float) -> bytes:
        began_ns = time.thread_time_ns()
        answer = await self._log.call(request)
        self.last_ns = time.thread_time_ns() - began_ns
        self.calls += 1
        self.bytes = len(request)
        return answer


class LeapingClock:
    """So much time passes between two looks at it that the recorder never waits."""

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
    """Microseconds per token of each round, in the ingress and in the log, and the bytes of a call."""
    link = TimedLink(StreamLog(LogBounds(max_tokens=1_000_000_000)))
    client = StreamLogClient(link)
    recorder = Recorder(client, DRIVER, LeapingClock(), on_stale=lambda stream: None)
    tokenizer = load_tokenizer(model_path(ModelSettings(name="m")))
    token_ids, draw = printable_token_ids(tokenizer), random.Random(1)
    streams = [make_stream(recorder, tokenizer) for _ in range(streams_number)]
    for stream in streams:
        await client.create(stream.record, DRIVER)
        recorder.start(stream, 1, [0])
    recording = asyncio.create_task(recorder.run())
    ingress, log = [], []
    for position in range(WARM_UP_ROUNDS + rounds):
        for stream in streams:
            stream.feed(TokenBatch(0, 0, position, [draw.choice(token_ids)]))
        calls = link.calls
        began_ns = time.thread_time_ns()
        while link.calls == calls:  # noqa: ASYNC110
            await asyncio.sleep(0)
        ingress.append((time.thread_time_ns() - began_ns - link.last_ns) / streams_number / 1e3)
        log.append(link.last_ns / streams_number / 1e3)
    recording.cancel()
    return ingress[WARM_UP_ROUNDS:], log[WARM_UP_ROUNDS:], link.bytes


def show(title: str, costs: Sequence[float]) -> None:
    costs = sorted(costs)
    print(f"{title}: {costs[len(costs) // 2]:.2f} µs/token, tenth percentile {costs[len(costs) // 10]:.2f}")


@click.command()
@click.option("--streams", default=96, show_default=True)
@click.option("--rounds", default=2000, show_default=True)
def main(streams: int, rounds: int) -> None:
    """Print the cost of recording a token."""
    ingress, log, length = uvloop.run(measure(streams, rounds))
    show("ingress", ingress)
    show("log", log)
    print(f"a call: {length / streams:.1f} bytes/token")


if __name__ == "__main__":
    main()
