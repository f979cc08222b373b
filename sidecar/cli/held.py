"""``respool held``: messages that wait for a person.

Diagnostics: exit code 1 for a message that is not there or in somebody's hand.
"""

from __future__ import annotations

import os
import sys

import click

from ...requeue import hold
from .kept import all_option, chosen, config_option, json_option, opened, opened_ledger, print_list


@click.group()
def held() -> None:
    """List, show, release or drop the messages that respool holds."""


@held.command("list")
@config_option
@json_option
def list_held(config_file: str, *, as_json: bool) -> None:
    """List held messages: for how long, by whom, why."""
    with opened(config_file) as (_, state):
        print_list(state, "held", as_json=as_json)


@held.command()
@config_option
@json_option
@click.argument("name")
def show(config_file: str, name: str, *, as_json: bool) -> None:
    """Show one held message as `respool show` does. NAME is an id, or <id>.<claim>."""
    from .show import show as show_message

    with opened(config_file) as (_, state):
        claim = hold.find(state, "held", name)
        path = os.path.join(state.path, "held", claim.name, claim.id.header_name)
    arguments = ["--json", path] if as_json else [path]
    sys.exit(show_message.main(arguments, standalone_mode=False) or 0)


@held.command()
@config_option
@all_option
@click.option("--as-is", "as_is", is_flag=True, help="Requeue the original, without any processing.")
@click.argument("names", nargs=-1)
def release(config_file: str, names: tuple[str, ...], *, all_of_them: bool, as_is: bool) -> None:
    """Let messages go: processed again, with the hold overridden by which they are here.

    A running sidecar takes them up at its next scan. Where a processor has failed, that is
    tried again, and the message held again if it fails again.
    """
    with opened(config_file) as (_, state):
        for claim in chosen(state, "held", names, all_of_them=all_of_them):
            hold.release(state, claim, as_is=as_is)
            click.echo(f"{claim.name} released")


@held.command()
@config_option
@all_option
@click.argument("names", nargs=-1)
def drop(config_file: str, names: tuple[str, ...], *, all_of_them: bool) -> None:
    """Remove held messages for good."""
    with opened(config_file) as (config, state), opened_ledger(config, state) as ledger:
        for claim in chosen(state, "held", names, all_of_them=all_of_them):
            hold.drop(state, claim, ledger)
            click.echo(f"{claim.name} dropped")
