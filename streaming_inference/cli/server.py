"""What the commands that talk to a server share: their options, the request, and their exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import click

from streaming_inference import Client, ClientError, NotReachable, RequestFields, RetryPolicy

FAILED = 1
NOT_REACHABLE = 3
INTERRUPTED = 130

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Server:
    """The address of the server, the API key, and the number of retries."""

    url: str
    api_key: str | None
    retries: int

    def client(self) -> Client:
        """A client of it. Ends the program if the address or the key is not valid."""
        try:
            return Client(self.url, api_key=self.api_key, retry=RetryPolicy(retries=self.retries))
        except ValueError as error:
            raise click.UsageError(str(error)) from error


def server_options(command: Command) -> Command:
    """Adds the options that `Server` is made of: `url`, `api_key` and `retries`."""
    options = [
        click.option(
            "--url",
            envvar="STREAMING_INFERENCE_URL",
            default="http://127.0.0.1:8000",
            show_default=True,
            show_envvar=True,
            help="Address of the server.",
        ),
        click.option(
            "--api-key",
            envvar="STREAMING_INFERENCE_API_KEY",
            show_envvar=True,
            help="Better set in the environment: other users can see the arguments of a program.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0, 1000),
            default=4,
            show_default=True,
            help="Repetitions of a failed attempt.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def request_options(command: Command) -> Command:
    """Adds the options from which `request_fields` makes a request."""
    options = [
        click.option("--model", help="Needed when the server has several."),
        click.option("--max-tokens", type=int, help="Maximum length of the answer."),
        click.option("--temperature", type=float, help="0 is greedy."),
        click.option("--top-p", type=float),
        click.option("--seed", type=int, help="The same seed gives the same answer."),
        click.option("--stop", multiple=True, help="Text before which the answer ends; may be repeated."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def request_fields(options: dict[str, Any]) -> RequestFields:
    """The fields that are set."""
    fields: RequestFields = {}
    for name, value in options.items():
        if value is not None and value != ():
            fields[name] = list(value) if isinstance(value, tuple) else value  # type: ignore[literal-required]
    return fields


def run(main: Coroutine[Any, Any, None], *, as_json: bool = False) -> None:
    """Runs a command. An error ends the program with its exit code.

    Ctrl-C cancels `main`, which cancels its stream on the server, and then ends the program.
    """
    try:
        asyncio.run(main)
    except ClientError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def fail(error: ClientError, *, as_json: bool = False) -> NoReturn:
    """Prints the error and ends the program."""
    complain(error, as_json=as_json)
    sys.exit(exit_code(error))


def exit_code(error: ClientError) -> int:
    return NOT_REACHABLE if isinstance(error, NotReachable) else FAILED


def complain(error: ClientError, *, as_json: bool = False) -> None:
    """Prints the error on stderr, and the command that resumes the stream."""
    if as_json:
        said = {"code": error.code, "message": error.message, "retryable": error.retryable}
        where = {"stream": error.stream, "cursor": error.cursor}
        click.echo(json.dumps({"error": {**said, **where}}), err=True)
        return
    click.echo(f"error: {error.message} ({error.code})", err=True)
    if error.retryable and error.stream is not None:
        after = "" if error.cursor is None else f" --after {error.cursor}"
        click.echo(f"go on with: streaming-inference resume {error.stream}{after}", err=True)
