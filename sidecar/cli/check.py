"""``respool check``: spool files, validated more strictly than Exim reads them.

Diagnostics: exit code 1 if anything is wrong; notes alone do not count.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import click
import msgspec
from rich.text import Text

from ...errors import SpoolFormatError
from ...spool.body import Body, BytesBody
from ...spool.check import Finding, check_pair
from . import terminal
from .spool_files import OpenMessage, Place, find_with_halves, read


@click.command("check")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True))
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of lines.")
def check(directory: str, *, as_json: bool) -> None:
    """Validate the spool files in DIR, and say what is wrong and where.

    Stricter than Exim, which reads files that it then loses mail by: a wrong
    body_linecount, a tree in the wrong order, no recipient left. A -D without its
    -H is a note: a message that is being received, or what a crash left.
    """
    console = terminal.output()
    checked = wrong = errors = 0
    findings: list[dict[str, object]] = []
    for place, found in _look(directory):
        checked += 1
        error_count = sum(finding.severity == "error" for finding in found)
        errors += error_count
        wrong += error_count > 0
        for finding in found:
            if as_json:
                findings.append({**msgspec.structs.asdict(finding), "directory": place.below})
                continue
            where = f"{place.below}/{finding}" if place.below else str(finding)
            style = "bold red" if finding.severity == "error" else "yellow"
            console.print(Text(f"{finding.severity:5} ", style=style).append_text(terminal.plain(where)))
    if as_json:
        click.echo(msgspec.json.encode({"checked": checked, "errors": errors, "findings": findings}))
    else:
        console.print(Text(f"{checked} checked, {wrong} wrong", style="red" if wrong else "green"))
    sys.exit(1 if errors else 0)


def _look(directory: str) -> Iterator[tuple[Place, list[Finding]]]:
    """Every message, and what is wrong with it; in the end those of which there is a -D alone."""
    places, halves = find_with_halves(directory)
    for place in places:
        found = _check(place)
        if place.is_lost:
            # Exim looks in the one subdirectory and above them all, respool too.
            expected = f"the subdirectory {place.id.split_directory}"
            name = place.id.header_name
            found.append(Finding(file=name, line=0, rule="subdirectory", expected=expected, found=place.below))
        yield place, found
    for place in halves:
        name = place.id.data_name
        half = Finding(
            file=name, line=0, rule="no-header-file", expected="a -H file", found="none", severity="note"
        )  # fmt: skip
        yield place, [half]


def _check(place: Place) -> list[Finding]:
    header_name = place.id.header_name
    try:
        stored = read(place)
    except SpoolFormatError as error:
        return [
            Finding(file=header_name, line=error.line, rule="format", expected=error.expected, found=error.found)
        ]  # fmt: skip
    except OSError as error:
        return [Finding(file=header_name, line=0, rule="unreadable", expected="a readable file", found=str(error))]

    def findings(body: Body, first_line: bytes) -> list[Finding]:
        return check_pair(
            header_name=header_name,
            header_data=stored.header_data,
            data_name=place.id.data_name,
            first_line=first_line,
            body=body,
            now=int(time.time()),
        )

    if stored.first_line is None:
        missing = Finding(
            file=place.id.data_name, line=0, rule="no-data-file", expected="a -D file", found="none"
        )  # fmt: skip
        return [missing, *findings(BytesBody(b"", wireformat=True), place.id.data_name.encode() + b"\n")]
    try:
        with OpenMessage(stored) as message:
            return findings(message.body, stored.first_line)
    except OSError as error:
        return [
            Finding(file=place.id.data_name, line=0, rule="unreadable", expected="a readable file", found=str(error))
        ]
