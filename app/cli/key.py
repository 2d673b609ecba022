"""`streaming-inference key`: keys for the callers of a server."""

from __future__ import annotations

from pathlib import Path

import click

from app.key_file import KeyFileError, create_key


@click.group()
def key() -> None:
    """Make API keys for a server (its setting auth.keys_file)."""


@key.command("create")
@click.option("--name", required=True, help="Name of the key's owner.")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default="keys.json",
    show_default=True,
    help="The file of keys; created if it does not exist.",
)
def create(name: str, path: Path) -> None:
    """Print a new key, once, and add its digest to the file. A running server takes it within a second."""
    try:
        click.echo(create_key(path, name))
    except KeyFileError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{path} has its digest. The key is not stored: keep it.", err=True)
