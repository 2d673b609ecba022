"""The commands that handle one stream, and the list of models."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from streaming_inference import GenerationStream
from streaming_inference.cli.display import Display
from streaming_inference.cli.server import Server, request_fields, request_options, run, server_options

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for programs.")


@click.command()
@click.argument("prompt", required=False)
@click.option("--chat", is_flag=True, help="Send the prompt as a chat message.")
@click.option(
    "--detach", is_flag=True, help="Print the name of the stream at once; it goes on without a reader."
)
@request_options
@_JSON
@server_options
def generate(
    prompt: str | None,
    chat: bool,
    detach: bool,
    as_json: bool,
    url: str,
    api_key: str | None,
    retries: int,
    **options: Any,
) -> None:
    """Answer PROMPT, or the text on stdin. Ctrl-C cancels the answer, on the server too."""
    text = prompt
    if text in (None, "-"):
        if sys.stdin.isatty():
            raise click.UsageError("Missing argument 'PROMPT', and stdin is a terminal.")
        text = sys.stdin.read()
        if not text:
            raise click.UsageError("The prompt on stdin is empty; it must have at least one character.")
    fields = request_fields(options)
    if chat:
        fields["messages"] = [{"role": "user", "content": text}]
    else:
        fields["prompt"] = text
    server = Server(url, api_key, retries)

    async def main() -> None:
        async with server.client() as client:
            if detach:
                stream = await client.start(**fields)
                click.echo(msgspec.json.encode({"stream": stream}) if as_json else stream)
            else:
                await _show(client.generate(**fields), as_json=as_json)

    run(main(), as_json=as_json)


@click.command()
@click.argument("stream")
@click.option("--after", metavar="CURSOR", help="Begin after this cursor.  [default: from the start]")
@click.option("--keep", is_flag=True, help="Ctrl-C does not cancel the stream.  [default: it does]")
@_JSON
@server_options
def resume(
    stream: str, after: str | None, keep: bool, as_json: bool, url: str, api_key: str | None, retries: int
) -> None:
    """Read STREAM again, live to its end."""
    server = Server(url, api_key, retries)

    async def main() -> None:
        async with server.client() as client:
            try:
                reading = client.resume(stream, after, on_exit="leave" if keep else "cancel")
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            await _show(reading, as_json=as_json)

    run(main(), as_json=as_json)


@click.command()
@click.argument("stream")
@_JSON
@server_options
def cancel(stream: str, as_json: bool, url: str, api_key: str | None, retries: int) -> None:
    """End STREAM. A stream that has ended is not changed."""
    server = Server(url, api_key, retries)

    async def main() -> None:
        async with server.client() as client:
            status = await client.cancel(stream)
        reason = status.choices[0].finish_reason if status.choices else status.state
        click.echo(
            msgspec.json.encode(status) if as_json else f"{status.stream}: {reason} at {status.cursor}"
        )

    run(main(), as_json=as_json)


@click.command()
@_JSON
@server_options
def models(as_json: bool, url: str, api_key: str | None, retries: int) -> None:
    """List the models of the server."""
    server = Server(url, api_key, retries)

    async def main() -> None:
        async with server.client() as client:
            for model in await client.models():
                click.echo(msgspec.json.encode(model) if as_json else model.id)

    run(main(), as_json=as_json)


async def _show(stream: GenerationStream, *, as_json: bool) -> None:
    async with stream:
        with Display(as_json=as_json) as display:
            async for frame in stream:
                display.show(frame)
