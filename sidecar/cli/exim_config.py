"""``respool exim-config``: the Exim side of a configuration.

Diagnostics: ConfigError (exit code 78) for a configuration without an Exim to take from.
"""

from __future__ import annotations

import contextlib
import os
import sys

import click

from ...errors import PermanentError
from ..config import Config, errors_of, load
from ..exim_recipe import recipe, text
from .terminal import escape

_MODE = 0o644


@click.command("exim-config")
@click.option("-c", "--config", "config_file", required=True, metavar="FILE", help="respool's configuration.")
@click.option(
    "--write",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Write each part into a file of DIR, to be included, instead of printing all.",
)
def exim_config(config_file: str, *, directory: str | None) -> None:
    r"""Print what belongs into Exim's configuration beside FILE.

    These are the parts that respool is tested with, for a named queue or for an export
    directory as FILE says, with its names filled in. Each says where it belongs.
    """
    with errors_of(config_file):
        parts = recipe(load(config_file, Config))
    if directory is None:
        sys.stdout.buffer.write(text(parts).encode())
        return
    try:
        os.makedirs(directory, exist_ok=True)
        for part in parts:
            # Replaced at once: an Exim that starts meanwhile reads the old text or the new one.
            path = os.path.join(directory, part.name)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + ".new")
            # Made anew: what others may have laid there is not followed.
            with open(path + ".new", "x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), _MODE)
                file.write(part.text)
            os.replace(path + ".new", path)
            click.echo(f"{escape(path)}: {part.place}", err=True)
    except OSError as error:
        raise PermanentError(f"{error.filename or directory}: {error.strerror}") from error
