"""The command line `streaming-inference`. Each command has a module, which is loaded on first use."""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "bench": "benchmarks.cli",
    "cancel": "streaming_inference.cli.streams",
    "chat": "streaming_inference.cli.chat",
    "generate": "streaming_inference.cli.streams",
    "key": "app.cli.key",
    "models": "streaming_inference.cli.streams",
    "resume": "streaming_inference.cli.streams",
}
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class LazyGroup(click.Group):
    """Commands that are imported by name, so that no command loads what only another needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None for a command of the server if another package `app` hides the server's. The other commands work there."""
        if cmd_name not in _COMMANDS:
            return None
        try:
            module = importlib.import_module(_COMMANDS[cmd_name])
        except ModuleNotFoundError as error:
            if error.name is None or not _COMMANDS[cmd_name].startswith(error.name):
                raise
            return None
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings=_CONTEXT)
def main() -> None:
    """Streaming inference: talk to a server, make keys for one, measure one.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no server answers, 130 interrupted.
    """
