"""``respool deferred``: messages that will be tried again.

Diagnostics: exit code 1 for a message that is not there or in somebody's hand.
"""

from __future__ import annotations

import click

from ...requeue import hold
from .kept import all_option, chosen, config_option, json_option, opened, print_list


@click.group()
def deferred() -> None:
    """List deferred messages, or have them tried at once."""


@deferred.command("list")
@config_option
@json_option
def list_deferred(config_file: str, *, as_json: bool) -> None:
    """List deferred messages: attempt, when the next one is due, why."""
    with opened(config_file) as (_, state):
        print_list(state, "deferred", as_json=as_json)


@deferred.command()
@config_option
@all_option
@click.argument("names", nargs=-1)
def retry(config_file: str, names: tuple[str, ...], *, all_of_them: bool) -> None:
    """Make messages due at once: a running sidecar takes them up at its next scan."""
    with opened(config_file) as (_, state):
        for claim in chosen(state, "deferred", names, all_of_them=all_of_them):
            hold.retry(state, claim)
            click.echo(f"{claim.name} is due")
