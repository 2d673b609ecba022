"""LitServe with a streaming `LitAPI` whose prediction is the paced source of tokens.

`enable_async` runs many streams at once in its worker; without it they run one after the other. `--fast-queue` is ZeroMQ in
place of LitServe's usual queue. On two cores both cost the same; with the usual queue the ITL was even at 32 streams, and at
96 streams neither kept the pace.
"""

from collections.abc import AsyncIterator

import click
import litserve

from benchmarks.baselines.events import text_events
from benchmarks.baselines.pace import paced_tokens

REQUEST_TIMEOUT_S = 600


class PacedApi(litserve.LitAPI):  # type: ignore[misc]
    """Yields the events of one stream for each request."""

    def __init__(self, first_token_s: float, step_s: float) -> None:
        super().__init__(stream=True, enable_async=True, api_path="/generate")
        self._first_token_s = first_token_s
        self._step_s = step_s

    def setup(self, device: str) -> None:
        """There is no model to load."""

    # LitServe derives the types of its route from the annotations of these two; without any, the body is a dict.
    async def decode_request(self, request):  # type: ignore[no-untyped-def]
        return int(request["max_tokens"])

    async def predict(self, tokens: int) -> AsyncIterator[str]:
        async for piece in paced_tokens(tokens, self._first_token_s, self._step_s):
            yield piece

    async def encode_response(self, pieces):  # type: ignore[no-untyped-def]
        async for event in text_events(pieces):
            yield event


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--first-token-s", type=float, default=0.02, show_default=True)
@click.option("--step-s", type=float, default=0.02, show_default=True)
@click.option("--fast-queue/--no-fast-queue", default=False, show_default=True)
def main(port: int, first_token_s: float, step_s: float, fast_queue: bool) -> None:
    """Serve on loopback until interrupted, with one API server and one worker."""
    server = litserve.LitServer(
        PacedApi(first_token_s, step_s), accelerator="cpu", timeout=REQUEST_TIMEOUT_S, fast_queue=fast_queue
    )
    server.run(
        host="127.0.0.1", port=port, num_api_servers=1, log_level="warning", generate_client_file=False
    )


if __name__ == "__main__":
    main()
