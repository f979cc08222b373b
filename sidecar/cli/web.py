"""``respool web``: the web page, a process of its own.

Diagnostics: ConfigError where it can't be served, or the extra is missing.
"""

from __future__ import annotations

import click

from ...errors import ConfigError
from .. import log
from ..config import Config, errors_of, load
from .extras import need


@click.command()
@click.option("-c", "--config", "config_file", metavar="FILE", help="The sidecar's configuration, with [web].")
@click.option("--hash", "name", metavar="NAME", help="Ask for a password and print NAME's line for password_file.")
def web(config_file: str | None, name: str | None) -> None:
    """Serve the web page of a sidecar: queues, journeys of messages, held mail.

    It listens on 127.0.0.1:9611 unless [web] says otherwise, and must run as the user of
    the sidecar. The sidecar need not run.
    """
    need("web", "jinja2", "starlette", "uvicorn")
    if name is not None:
        _print_hash(name)
        return
    if config_file is None:
        raise click.UsageError("give the configuration: -c FILE")
    from ..web.server import serve

    config = load(config_file, Config)
    log.configure()
    with errors_of(config_file):
        serve(config)


def _print_hash(name: str) -> None:
    from ..web.passwords import hash_line

    password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    if len(password) < 8:
        raise ConfigError("eight characters at least")
    try:
        click.echo(hash_line(name, password))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
