"""``respool ledger``: what is remembered of exports.

Diagnostics: LedgerError (an OSError) becomes exit code 1.
"""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec
from rich.text import Text

from ...errors import PermanentError
from ...requeue.ledger import Entry, open_for_reading
from ...requeue.ledger_file import LedgerError
from . import terminal
from .kept import config_option, json_option, opened


@click.group()
def ledger() -> None:
    """Look at the ledger: which claim owns which recipient of which export."""


@ledger.command("list")
@config_option
@json_option
@click.argument("message_id", default="")
def list_entries(config_file: str, message_id: str, *, as_json: bool) -> None:
    """List the entries, those in work first; only of MESSAGE_ID (or ids that begin so) if given.

    With --json one object per line.
    """
    console, now = terminal.output(), time.time()
    with opened(config_file) as (_, state):
        try:
            for entry in open_for_reading(state.path, message_id):
                if as_json:
                    click.echo(msgspec.json.encode(_document(entry)))
                    continue
                line = Text(f"{terminal.age(int(now - entry.time))} {'settled' if entry.settled else 'in work'}  ")
                line.append(f"{entry.id}.{entry.claim}", style="bold").append("  ")
                console.print(line.append_text(terminal.plain(entry.recipient)))
        except LedgerError as error:
            raise PermanentError(str(error)) from error


def _document(entry: Entry) -> dict[str, Any]:
    return {**msgspec.structs.asdict(entry), "recipient": entry.recipient.decode("utf-8", "backslashreplace")}
