"""``respool dmarc history``: looking at the history file, and handing it over to OpenDMARC's importer.

Diagnostics: exit code 1 for a file that is none and where there is nothing to rotate, 75
for one that is locked; ConfigError is not raised.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from ...errors import RespoolError
from ...processors.dmarc_history_file import read_lines, rotate
from ...processors.dmarc_history_record import HistoryRecord, parse_records
from .terminal import escape

_POLICIES: Final = {14: "no record", 15: "pass", 16: "reject", 17: "quarantine", 18: "none"}
_ACTIONS: Final = {0: "rejected", 1: "discarded", 2: "accepted", 3: "deferred", 4: "quarantined"}


@click.group()
def history() -> None:
    """Look at the DMARC history file, or rotate it."""


@history.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON document a record.")
def show(file: str, *, as_json: bool) -> None:
    """Print the records of FILE, one a line, oldest first."""
    try:
        for record in parse_records(read_lines(file)):
            line = msgspec.json.encode(record).decode() if as_json else _line(record)
            sys.stdout.write(line + "\n")
    except OSError as error:
        raise RespoolError(f"{file}: {error.strerror}") from error


@history.command("rotate")
@click.argument("file", type=click.Path())
@click.argument("target", type=click.Path(), required=False)
def rotate_command(file: str, *, target: str | None) -> None:
    """Rename FILE to TARGET between two records; what comes later goes to a new FILE.

    TARGET is FILE and the time by default; it must not exist. Printed is its name, for
    opendmarc-import. Exit code 1: there is nothing to rotate.
    """
    target = target or f"{file}.{time.strftime('%Y%m%dT%H%M%S')}.{os.getpid()}"
    try:
        done = rotate(file, target)
    except OSError as error:
        raise RespoolError(f"{target}: {error.strerror}") from error
    if not done:
        raise RespoolError(f"{file}: nothing to rotate")
    sys.stdout.write(target + "\n")


def _line(record: HistoryRecord) -> str:
    when = datetime.fromtimestamp(record.received, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    aligned = [name for name, code in (("spf", record.align_spf), ("dkim", record.align_dkim)) if code == 4]
    return escape(
        f"{when} {record.job} {record.from_domain} from {record.ipaddr}:"
        f" {_POLICIES.get(record.policy, record.policy)}, {_ACTIONS.get(record.action, record.action)},"
        f" aligned: {' '.join(aligned) or 'nothing'}"
    )
