"""What ``respool held`` and ``respool deferred`` share: the state directory, and how a message is shown.

Diagnostics: ConfigError where there is no state directory; PermanentError for a message
that is not there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import click
import msgspec
from rich.text import Text

from ...errors import ConfigError
from ...requeue import ledger
from ...requeue.hold import Kept, Place, find, list_kept
from ...requeue.state import Claim, StateDirectory
from ..config import Config, load
from . import terminal

config_option: Final = click.option(
    "-c", "--config", "config_file", required=True, metavar="FILE", help="The sidecar's configuration."
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="One JSON array instead of lines.")
all_option: Final = click.option("--all", "all_of_them", is_flag=True, help="All of them.")


@contextmanager
def opened(config_file: str) -> Generator[tuple[Config, StateDirectory]]:
    """The configuration, and its state directory; a running sidecar is not in the way."""
    config = load(config_file, Config)
    if not os.path.isdir(config.state_directory):
        raise ConfigError(f"{config.state_directory} is not there: no sidecar has run yet", key="$.state_directory")
    state = StateDirectory(config.state_directory)
    try:
        yield config, state
    finally:
        state.close()


@contextmanager
def opened_ledger(config: Config, state: StateDirectory) -> Generator[ledger.Ledger | None]:
    """The ledger, where the sidecar keeps one."""
    if not os.path.isdir(os.path.join(state.path, ledger.DIRECTORY)):
        yield None
        return
    found = ledger.Ledger(
        state, expiry_seconds=config.ledger.expire_days * 86400, largest=config.ledger.largest_mib << 20
    )
    try:
        yield found
    finally:
        found.close()


def chosen(state: StateDirectory, place: Place, names: tuple[str, ...], *, all_of_them: bool) -> list[Claim]:
    """The messages that an operator means."""
    if all_of_them == bool(names):
        raise click.UsageError("name messages, or say --all")
    if all_of_them:
        return state.list(place)
    return [find(state, place, name) for name in names]


def print_list(state: StateDirectory, place: Place, *, as_json: bool) -> None:
    """One line for each message: since when, name, attempt, when it is due, by which processor, why."""
    kept = list_kept(state, place)
    if as_json:
        click.echo(msgspec.json.encode([_document(one) for one in kept]))
        return
    console, now = terminal.output(), time.time()
    for one in kept:
        status = one.status
        line = Text(f"{terminal.age(int(now - status.since)) if status.since else '   '} ")
        line.append(one.claim.name, style="bold")
        line.append(f"  attempt {status.attempt}")
        if place == "deferred":
            wait = status.retry_at - now
            line.append(f", next in {wait:.0f} s" if wait > 0 else ", next one is due")
        if status.processor:
            line.append("  ").append_text(terminal.plain(status.processor, "cyan"))
        console.print(line)
        console.print(Text("      ").append_text(terminal.plain(status.reason)))


def _document(one: Kept) -> dict[str, Any]:
    return {"id": str(one.claim.id), "name": one.claim.name, **msgspec.structs.asdict(one.status)}
