"""CPU time of a token in the ingress alone: from the message of the channel to the socket, without Ray.

    python -m benchmarks.token_path [--streams 96] [--steps 400]

The whole application answers real connections; another process reads them. The messages are those of a generator: one token
for every stream. The event loop takes each message without a pause. The output is the CPU time of that, per token: the median
step and the tenth percentile, which is the better figure on a machine that runs other programs. "written" contains the
kernel's work for the write; "Python" is the same without the write.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import click
import uvicorn
import uvloop

from app.asgi import server_send
from app.asgi.application import build_app
from app.clock import SystemClock
from app.model import Model
from app.ports import ModelCard, TokenSink
from app.schema.constraint import Constraint
from app.schema.requests import GenerationRequest
from app.schema.tokens import Job, Steering, TokenBatch
from app.service import GenerationService
from app.settings import ModelSettings, Settings
from app.streams.memory_store import MemoryStreamStore
from app.streams.store_bounds import StoreBounds
from benchmarks.serve.summary import quantiles
from deployments.messages.call import encode
from deployments.messages.generation import ChannelMessage, decode_message
from deployments.model.files import load_tokenizer, model_path, printable_token_ids

WARM_UP_STEPS = 20
BETWEEN_STEPS_S = 0.003


class Accepting:
    """A generator that accepts every job; the benchmark feeds its tokens."""

    replica = "replica"
    capacity = 10_000
    deterministic = True
    asleep = False

    def __init__(self) -> None:
        self.sinks: dict[int, TokenSink] = {}

    @asynccontextmanager
    async def open(self, job: Job, sink: TokenSink) -> AsyncIterator[Accepting]:
        self.sinks[job.key] = sink
        yield self

    async def wake(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def end(self, choice: int) -> None: ...
    def steer(self, steering: Steering) -> None: ...


class Prompts:
    """The tokenizer of the embedded model, in this process."""

    def __init__(self) -> None:
        tokenizer = load_tokenizer(model_path(ModelSettings(name="m")))
        self.token_ids = printable_token_ids(tokenizer)
        self._card = ModelCard(
            name="m",
            created=0,
            owned_by="benchmark",
            max_model_len_tokens=1_000_000,
            vocab_size=tokenizer.get_vocab_size(),
            tokenizer_json=tokenizer.to_str(),
            has_chat_template=False,
        )

    async def describe(self) -> ModelCard:
        return self._card

    async def encode(self, request: GenerationRequest) -> list[int]:
        return list(request.prompt_token_ids or (1,))

    async def check_constraint(self, constraint: Constraint) -> None:
        """Takes all."""

    async def encode_text(self, text: str) -> list[int]:
        return [1]


def read_all(port: int, streams: int) -> None:
    """The clients: starts the streams and reads them until the process is killed."""
    body = json.dumps({"prompt_token_ids": [5, 6, 7]}).encode()
    head = b"POST /v1/streams HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    selector = selectors.DefaultSelector()
    for _ in range(streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(head % len(body) + body)
        selector.register(connection, selectors.EVENT_READ, connection)
    while True:
        for key, _ in selector.select():
            key.data.recv(65_536)


async def measure(
    streams: int, steps: int, listener: socket.socket, report: Callable[[list[float]], None]
) -> None:
    """Calls `report` with the CPU microseconds per token of each step."""
    generator, prompts = Accepting(), Prompts()
    limits = {"max_output_tokens": 100_000, "max_streams_per_key": 10_000}
    settings = Settings.model_validate(
        {"models": [{"name": "m", "max_running_sequences": 4096}], "limits": limits}
    )
    model = Model(settings.models[0], prompts, generator)
    store = MemoryStreamStore(StoreBounds(), SystemClock())
    service = GenerationService(settings, {"m": model}, store, ingress="i", clock=SystemClock())
    await service.load()
    config = uvicorn.Config(build_app(service), http="httptools", lifespan="off", log_config=None)
    serving = asyncio.create_task(uvicorn.Server(config).serve([listener]))
    while len(generator.sinks) < streams:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    draw, costs = random.Random(1), []
    for step in range(-WARM_UP_STEPS, steps):
        tokens = [
            TokenBatch(key, 0, step + WARM_UP_STEPS, [draw.choice(prompts.token_ids)])
            for key in generator.sinks
        ]
        message = encode(ChannelMessage(step + WARM_UP_STEPS + 1, tokens))
        await asyncio.sleep(BETWEEN_STEPS_S)
        began_ns = time.thread_time_ns()
        for batch in decode_message(message).batches:
            generator.sinks[batch.key].feed(batch)
        if step >= 0:
            costs.append((time.thread_time_ns() - began_ns) / streams / 1e3)
    report(costs)
    await serving


def print_costs(title: str, streams: int, steps: int, *, writing: bool) -> None:
    """Measures in this process and ends the process."""
    if not writing:
        server_send.ChunkedBody.write = lambda self, body: True  # type: ignore[method-assign]
    with socket.create_server(("127.0.0.1", 0), backlog=streams) as listener:
        fork = multiprocessing.get_context("fork")
        clients = fork.Process(target=read_all, args=(listener.getsockname()[1], streams), daemon=True)
        clients.start()

        def report(costs: list[float]) -> None:
            clients.kill()
            deciles = quantiles(costs, 10)
            print(f"{title}: {deciles[4]:.1f} µs/token, tenth percentile {deciles[0]:.1f}")
            sys.stdout.flush()
            os._exit(0)  # the streams have no end

        uvloop.run(measure(streams, steps, listener, report))


@click.command()
@click.option("--streams", default=96, show_default=True)
@click.option("--steps", default=400, show_default=True)
def main(streams: int, steps: int) -> None:
    """Print the cost of a token in the ingress."""
    fork = multiprocessing.get_context("fork")
    for title, writing in (("written", True), ("Python", False)):
        process = fork.Process(target=print_costs, args=(title, streams, steps), kwargs={"writing": writing})
        process.start()
        process.join(timeout=120)
        process.kill()


if __name__ == "__main__":
    main()
