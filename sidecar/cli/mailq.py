"""``respool list``: what waits in a directory, like mailq.

Diagnostics: exit code 1 if a message could not be read; its line says why.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from ...errors import SpoolFormatError
from . import terminal
from .message_json import text
from .spool_files import Place, Stored, find, read


@click.command("list")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON array instead of lines.")
def list_messages(directory: str, *, as_json: bool) -> None:
    """List the messages in an export, a spool, a state directory or an archive.

    Age, size, id and sender as mailq has them, then the recipients, D before the
    delivered ones (by -H or by the journal).
    """
    now = int(time.time())
    console = terminal.output()
    documents: list[dict[str, Any]] = []
    failed = False
    for place in find(directory):
        try:
            stored = read(place)
        except (SpoolFormatError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                continue  # delivered or moved while we were looking
            failed = True
            documents.append({"id": str(place.id), "directory": place.below, "error": str(error)})
            if not as_json:
                _print_broken(console, place, error)
            continue
        if as_json:
            documents.append(_document(stored, now))
        else:
            _print_message(console, stored, now)
    if as_json:
        click.echo(msgspec.json.encode(documents))
    sys.exit(1 if failed else 0)


def _document(stored: Stored, now: int) -> dict[str, Any]:
    envelope = stored.envelope
    return {
        "id": str(stored.place.id),
        "directory": stored.place.below,
        "sender": text(envelope.sender),
        "received_time": envelope.received_time,
        "age_seconds": now - envelope.received_time,
        "message_size": envelope.message_size(stored.body_size) if stored.first_line is not None else None,
        "frozen": envelope.is_frozen,
        "recipients": [
            {"address": text(recipient.address), "delivered": envelope.is_delivered(recipient)}
            for recipient in envelope.recipients
        ],
    }


def _print_message(console: Console, stored: Stored, now: int) -> None:
    envelope = stored.envelope
    # As Exim: no size without -D.
    size = envelope.message_size(stored.body_size) if stored.first_line is not None else 0
    line = Text(f"{terminal.age(now - envelope.received_time)} {terminal.size(size)} ")
    line.append(str(envelope.id), style="bold")
    line.append(" <").append_text(terminal.plain(envelope.sender, "cyan")).append(">")
    if envelope.is_sender_set_untrusted:
        line.append(" (").append_text(terminal.plain(envelope.login)).append(")")
    if envelope.is_frozen:
        line.append(" *** frozen ***", style="bold blue")
    if stored.first_line is None:
        line.append(" *** no -D file ***", style="bold red")
    if stored.place.below:
        line.append("  ").append_text(terminal.plain(stored.place.below, "dim"))
    console.print(line)
    for recipient in envelope.recipients:
        delivered = envelope.is_delivered(recipient)
        mark = Text("        D " if delivered else "          ", style="green")
        console.print(mark.append_text(terminal.plain(recipient.address, "dim" if delivered else "")))
    console.print()


def _print_broken(console: Console, place: Place, error: Exception) -> None:
    line = Text("          ").append(str(place.id), style="bold")
    if place.below:
        line.append("  ").append_text(terminal.plain(place.below, "dim"))
    console.print(line)
    console.print(Text("    *** ").append_text(terminal.plain(str(error), "red")).append(" ***"))
    console.print()
