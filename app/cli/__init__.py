"""The command line `streaming-inference`. Each command lives in a module of its own, which is loaded when it is asked for."""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "bench": "benchmarks.cli",
    "cancel": "app.cli.streams",
    "chat": "app.cli.chat",
    "generate": "app.cli.streams",
    "key": "app.cli.key",
    "models": "app.cli.streams",
    "resume": "app.cli.streams",
}
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class LazyGroup(click.Group):
    """Commands that are imported by their names, so that none waits for what only another needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings=_CONTEXT)
def main() -> None:
    """Streaming inference: talk to a server, make keys for one, measure one.

    Exit codes: 0 done, 1 the server refused or the generation failed, 2 wrong usage, 3 no server answers, 130 interrupted.
    """
