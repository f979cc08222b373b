"""``respool lookup``, ``respool table build``, ``respool table dump``.

Diagnostics: exit code 1 for an absent key and for a source that can't become a table, 2
for usage, 75 for a table or a disk that can't be read or written now.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ...errors import ConfigError
from ...lookups.table_build import BuildReport, build, dump
from ...lookups.table_reference import TableReference
from ...lookups.table_source import SourceFormat, TableSourceError, format_of, json_line, lsearch_line
from ...lookups.tables import Match, TableError, look_up
from ...processors.route_value import complaint
from .terminal import escape

ABSENT = 1
TEMPORARY = 75


@click.command()
@click.argument("table_type", metavar="TYPE")
@click.argument("file", type=click.Path())
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, also for an absent key.")
def lookup(table_type: str, file: str, key: str, *, as_json: bool) -> None:
    """Look KEY up in the table FILE as Exim would.

    TYPE is lmdb, with Exim's wildcards: partial-lmdb, partial0-lmdb, lmdb*@, lmdb*.
    Exit code 1: the key is absent; 75: the table can't be read.
    """
    try:
        reference = msgspec.structs.replace(TableReference.parse(f"{table_type};/"), path=os.path.abspath(file))
    except ConfigError as error:
        expected = "lmdb, with Exim's wildcards as in partial-lmdb, partial0-lmdb, lmdb*@, lmdb*"
        raise click.UsageError(f"'{table_type}' is no TYPE: expected {expected}") from error
    try:
        match = look_up(reference, os.fsencode(key))
    except TableError as error:
        _give_up(str(error), TEMPORARY)
    if as_json:
        _write(_match_json(match))
    elif match is not None:
        _write(match.value)
    if match is None:
        sys.exit(ABSENT)


@click.group()
def table() -> None:
    """Build and dump the LMDB tables that Exim and respool read."""


@table.command("build")
@click.argument("source", metavar="SRC", type=click.Path(exists=True, dir_okay=False))
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["auto", *(kind.value for kind in SourceFormat)]),
    default="auto",
    show_default=True,
    help="How SRC is written; auto goes by the end of its name, else lsearch.",
)
@click.option(
    "--lower/--keep-case",
    "lower",
    default=None,
    help="Keys in lower case, or as they stand. By default in lower case for lsearch only.",
)
@click.option(
    "--check",
    "check_name",
    type=click.Choice(["none", "route"]),
    default="none",
    show_default=True,
    help="Refuse a SRC with a value that this processor would not understand.",
)
@click.option("--mode", default="640", show_default=True, help="Octal permissions of a new FILE.")
@click.option("--group", default=None, help="Group of a new FILE, by name or number: Exim's.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document.")
def build_command(
    source: str,
    target: str,
    *,
    format_name: str,
    lower: bool | None,
    check_name: str,
    mode: str,
    group: str | None,
    as_json: bool,
) -> None:
    """Build the table FILE from SRC, and put it in place of the old one at once.

    Of several entries with one key the first counts. An existing FILE hands its owner,
    group and permissions on.
    """
    kind = format_of(source) if format_name == "auto" else SourceFormat(format_name)
    bar = _Bar()
    try:
        with bar.progress:
            report = build(
                source,
                target,
                source_format=kind,
                lower_keys=lower,
                check=complaint if check_name == "route" else None,
                mode=_octal(mode),
                group=_group_number(group),
                progress=bar.show,
            )
    except TableSourceError as error:
        _give_up(str(error), ABSENT)
    except TableError as error:
        _give_up(str(error), TEMPORARY)
    except OSError as error:
        _give_up(f"{error.filename or target}: {error.strerror}", TEMPORARY)
    if as_json:
        _write(msgspec.json.encode(report))
    else:
        _write(_summary(report).encode())


@table.command("dump")
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="One JSON document per line; `table build` reads them.")
def dump_command(file: str, *, as_json: bool) -> None:
    """Print every key and value of the table FILE, in key order.

    As lsearch lines, which can't tell every value (one with a newline, say); with --json
    each is exact.
    """
    try:
        for key, value in dump(file):
            _write(json_line(key, value) if as_json else lsearch_line(key, value))
    except TableError as error:
        _give_up(str(error), TEMPORARY)


class _Bar:
    """Progress on standard error, where that is a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self.progress.add_task(phase)
        self.progress.update(self._tasks[phase], completed=done, total=max(total, 1))


def _summary(report: BuildReport) -> str:
    text = f"{report.target}: {report.entries} entries, {report.file_size} bytes, {report.seconds:.1f} s"
    if report.duplicates:
        lines = ", ".join(map(str, report.duplicate_lines))
        text += f"; {report.duplicates} later entries of the same keys dropped (lines {lines}"
        text += ", …)" if report.duplicates > len(report.duplicate_lines) else ")"
    return text


def _match_json(match: Match | None) -> bytes:
    if match is None:
        return msgspec.json.encode({"found": False})
    fields = {name: _json_text(getattr(match, name)) for name in ("value", "key", "wild", "fixed")}
    return msgspec.json.encode({"found": True, **fields})


def _json_text(text: bytes) -> object:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": msgspec.to_builtins(text)}


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError as error:
        raise click.UsageError(f"--mode {text}: not octal") from error
    if not 0o400 <= mode <= 0o777:
        raise click.UsageError(f"--mode {text}: expected 400 to 777")
    return mode


def _group_number(text: str | None) -> int | None:
    import grp

    if text is None or text.isdigit():
        return None if text is None else int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError as error:
        raise click.UsageError(f"--group {text}: no such group") from error


def _write(line: bytes) -> None:
    """Write one line to standard output: as it is, but with unusual bytes escaped on a terminal."""
    if sys.stdout.isatty():
        click.echo(escape(line))
    else:
        sys.stdout.buffer.write(line + b"\n")  # no flush for each line: a dump may have millions


def _give_up(reason: str, code: int) -> NoReturn:
    click.echo(escape(os.fsencode(reason)), err=True)
    sys.exit(code)
