"""``respool show``: one message, or each of a directory.

Diagnostics: exit code 1 if a message could not be read; standard error says which and why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...errors import SpoolFormatError
from ...spool.body import local_chunks
from ...spool.envelope import Envelope, Header
from . import terminal
from .message_json import eml_document, message_document, notify_words
from .spool_files import OpenMessage, Stored, find, read, read_eml


@click.command("show")
@click.argument("path", metavar="PATH", type=click.Path(exists=True))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; an array for a directory.")
@click.option("--raw", is_flag=True, help="Print the message as it will be sent, with LF line ends.")
def show(path: str, *, as_json: bool, raw: bool) -> None:
    """Show a message: envelope, recipients, variables, headers, sizes.

    PATH is a -H file, a directory with pairs, or an .eml file.
    """
    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other")
    console = terminal.output()
    try:
        if not os.path.isdir(path) and not path.endswith("-H"):
            headers, body = read_eml(path)
            if raw:
                _write([header.raw for header in headers])
                _write([b"\n", body])
            elif as_json:
                click.echo(msgspec.json.encode(eml_document(headers, body)))
            else:
                _print_headers(console, headers)
            return
        documents: list[dict[str, Any]] = []
        failed = False
        for place in find(path):
            try:
                stored = read(place)
                if raw:
                    _write(_sent_bytes(stored))
                elif as_json:
                    documents.append(message_document(stored))
                else:
                    _print_message(console, stored)
            except (SpoolFormatError, OSError) as error:
                failed = True
                click.echo(f"respool: {terminal.escape(str(error))}", err=True)
    except (SpoolFormatError, OSError) as error:
        click.echo(f"respool: {terminal.escape(str(error))}", err=True)
        sys.exit(1)
    if as_json and (documents or os.path.isdir(path)):
        click.echo(msgspec.json.encode(documents if os.path.isdir(path) and len(documents) != 1 else documents[0]))
    sys.exit(1 if failed else 0)


def _sent_bytes(stored: Stored) -> Iterator[bytes]:
    with OpenMessage(stored) as message:
        for header in message.sent_headers:
            yield header.raw
        yield b"\n"
        yield from local_chunks(message.body)


def _write(pieces: Iterator[bytes] | list[bytes]) -> None:
    """The bytes as they are into a file or pipe; escaped where a terminal would read them."""
    to_terminal = sys.stdout.isatty()
    stream = sys.stdout.buffer
    for piece in pieces:
        stream.write(terminal.escape_lines(piece).encode() if to_terminal else piece)
    stream.flush()


def _print_message(console: Console, stored: Stored) -> None:
    envelope = stored.envelope
    console.print(Text(str(envelope.id), style="bold"))
    table = _table()
    for name, value in _facts(stored):
        if value is not None:
            table.add_row(Text(name, style="cyan"), value)
    console.print(table)
    _print_recipients(console, envelope)
    if envelope.variables:
        console.print(Text("Variables", style="bold"))
        table = _table()
        for variable, content in envelope.variables.items():
            table.add_row(terminal.plain(variable, "cyan"), terminal.plain(content))
        console.print(table)
    _print_headers(console, envelope.headers)
    console.print()


def _facts(stored: Stored) -> Iterator[tuple[str, Text | None]]:
    envelope = stored.envelope
    yield "sender", Text("<").append_text(terminal.plain(envelope.sender)).append(">")
    received = envelope.received_at
    yield "received", Text(received.isoformat(sep=" ") if received is not None else str(envelope.received_time))
    yield "protocol", _optional(envelope.received_protocol)
    yield "host", _host(envelope)
    yield "user", terminal.plain(b"%b (uid %d, gid %d)" % (envelope.login, envelope.uid, envelope.gid))
    yield "authenticated", _optional(envelope.auth_id)
    yield "TLS", _optional(envelope.tls_cipher)
    yield "frozen", Text(f"since {envelope.frozen_since}", style="bold blue") if envelope.is_frozen else None
    message_size = envelope.message_size(stored.body_size)
    form = "wire format (CRLF)" if envelope.is_wireformat else "local format (LF)"
    body = f"{stored.body_size} bytes, {form}" if stored.first_line is not None else "missing: no -D file"
    yield "size", Text(f"{message_size} bytes ({terminal.size(message_size).strip()}), body {body}")


def _host(envelope: Envelope) -> Text | None:
    if envelope.host_address is None:
        return None
    shown = terminal.plain(envelope.host_name or b"").append(" " if envelope.host_name else "")
    shown.append("[").append_text(terminal.plain(envelope.host_address)).append(f"]:{envelope.host_port}")
    if envelope.helo_name:
        shown.append(" HELO ").append_text(terminal.plain(envelope.helo_name))
    return shown


def _optional(value: bytes | None) -> Text | None:
    return terminal.plain(value) if value is not None else None


def _print_recipients(console: Console, envelope: Envelope) -> None:
    console.print(Text("Recipients", style="bold"))
    table = _table()
    for index, recipient in enumerate(envelope.recipients):
        delivered = envelope.is_delivered(recipient)
        details = Text()
        if recipient.dsn_flags:
            details.append(f"NOTIFY={','.join(notify_words(recipient.dsn_flags))} ")
        if recipient.orcpt:
            details.append("ORCPT=").append_text(terminal.plain(recipient.orcpt)).append(" ")
        if recipient.errors_to:
            details.append("errors to ").append_text(terminal.plain(recipient.errors_to)).append(" ")
        if recipient.parent >= 0:
            details.append(f"child of {recipient.parent}")
        table.add_row(
            Text(f"{index} D" if delivered else f"{index}  ", style="green"),
            terminal.plain(recipient.address, "dim" if delivered else ""),
            details,
        )
    console.print(table)


def _print_headers(console: Console, headers: tuple[Header, ...]) -> None:
    console.print(Text("Headers", style="bold"))
    for header in headers:
        name, colon, value = header.raw.removesuffix(b"\n").partition(b":")
        line = Text.assemble((f"  {terminal.escape(header.flag)} ", "dim"))
        style = "dim strike" if header.flag == "*" else "cyan"
        line.append(terminal.escape(name) + colon.decode(), style=style)
        shown = [terminal.escape_lines(part) for part in value.split(b"\n")]
        line.append("\n    ".join(shown), style="dim" if header.flag == "*" else "")
        console.print(line)


def _table() -> Table:
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
