"""`streaming-inference chat`: a conversation in a terminal or over a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import click

from streaming_inference import Client, ClientError, Delta, RequestFields
from streaming_inference.cli.display import Display
from streaming_inference.cli.server import (
    INTERRUPTED,
    Server,
    complain,
    exit_code,
    request_fields,
    request_options,
    server_options,
)

_PROMPT = "> "
_HELP = "Ctrl-C cancels an answer. /new begins a new conversation, /exit or Ctrl-D ends."


@click.command()
@click.option("--system", help="System message.")
@request_options
@server_options
def chat(system: str | None, url: str, api_key: str | None, retries: int, **options: Any) -> None:
    """Talk with a model. Ctrl-C cancels the answer, on the server too; /exit or Ctrl-D ends."""
    client = Server(url, api_key, retries).client()
    with asyncio.Runner() as runner:
        conversation = Conversation(runner, client, request_fields(options), system)
        try:
            code = conversation.hold()
        except KeyboardInterrupt:
            code = INTERRUPTED
        finally:
            runner.run(client.aclose())
    sys.exit(code)


class Conversation:
    """The messages so far, and the loop that adds to them."""

    def __init__(
        self, runner: asyncio.Runner, client: Client, fields: RequestFields, system: str | None
    ) -> None:
        self._runner = runner
        self._client = client
        self._fields = fields
        self._beginning = [{"role": "system", "content": system}] if system else []
        self._messages: list[dict[str, str]] = list(self._beginning)
        self._interactive = sys.stdin.isatty()
        if self._interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # line editing and history, for `input`

    def hold(self) -> int:
        """Reads questions and shows answers until the input ends; returns the exit code.

        An error ends a conversation over a pipe. On a terminal it is shown, and the conversation goes on.
        """
        if self._interactive:
            click.echo(_HELP, err=True)
        while (question := self._ask()) is not None:
            if question == "/exit":
                break
            if question == "/new":
                self._messages = list(self._beginning)
            elif question:
                failure = self._answer(question)
                if failure and not self._interactive:
                    return failure
        return 0

    def _ask(self) -> str | None:
        """The next line; None at the end of the input. Ctrl-C drops the line that is being typed."""
        while True:
            try:
                return (input(_PROMPT) if self._interactive else input()).strip()
            except EOFError:
                if self._interactive:
                    click.echo()
                return None
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                click.echo()

    def _answer(self, question: str) -> int:
        """Shows the answer and adds it to the messages, also a part of one; returns the exit code."""
        messages = [*self._messages, {"role": "user", "content": question}]
        texts: list[str] = []
        fields: RequestFields = {**self._fields, "messages": messages}

        async def show() -> None:
            async with self._client.generate(**fields) as stream:
                with Display() as display:
                    async for frame in stream:
                        if isinstance(frame, Delta) and frame.text:
                            texts.append(frame.text)
                        display.show(frame)

        try:
            self._runner.run(show())
        except KeyboardInterrupt:
            click.echo("(cancelled)", err=True)
        except ClientError as error:
            complain(error)
            return exit_code(error)
        finally:
            if texts:
                self._messages = [*messages, {"role": "assistant", "content": "".join(texts)}]
        return 0
