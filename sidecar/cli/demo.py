"""``respool demo``: the main job on the samples, and what became of each, for a person.

Diagnostics: ConfigError for a directory that can't be used; exit code 1 if a sample did
not become what it should, which is said.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import demo as demonstration
from ..difference import Change, render
from . import terminal
from .step_text import RESULT_STYLES, step_line

_STATE_STYLES = {"requeued": "green", "held": "yellow", "deferred": "yellow", "discarded": "yellow"}
_METHODS = ("spf", "dkim", "dmarc", "arc")
_NO_TERMINAL_WIDTH = 100
_SHOWN = frozenset({"sender", "header", "queue", "body", "setting"})


@click.command()
@click.option(
    "--dir",
    "directory",
    metavar="D",
    type=click.Path(file_okay=False),
    help="Where the result is left: new, empty, or an earlier demonstration's. Default: a new temporary directory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print every sample and its outcome as one JSON document.")
def demo(*, directory: str | None, as_json: bool) -> None:
    r"""Do the main job on the samples that come with respool.

    Real spool messages are verified, annotated, sealed and requeued, with keys made for
    the occasion and DNS out of a file. Nothing is asked of the network, no Exim is
    needed, and nothing is written outside of D.
    """
    if directory is None:
        directory = tempfile.mkdtemp(prefix="respool-demo-")
    finished = demonstration.run(directory)
    content = msgspec.json.format(msgspec.json.encode(demonstration.document(finished)), indent=2) + b"\n"
    with open(os.path.join(finished.directory, "result.json"), "wb") as file:
        file.write(content)
    if as_json:
        sys.stdout.buffer.write(content)
    else:
        with contextlib.suppress(BrokenPipeError):
            _print(terminal.output(), finished)
    for shown in finished.shown:
        for surprise in shown.surprises:
            click.echo(f"respool: {shown.case.name}: {terminal.escape(surprise)}", err=True)
    sys.exit(0 if finished.is_as_expected else 1)


def _print(console: Console, finished: demonstration.Demonstration) -> None:
    pipeline = Text(" → ").join(Text(name, style="bold") for name in finished.processors)
    console.print(Text(f"{len(finished.shown)} messages, as Exim left them in its spool, went through ") + pipeline)
    console.print()
    for shown in finished.shown:
        _print_message(console, shown)
    console.print(_summary(finished))
    console.print()
    _print_pointers(console, finished)


def _print_message(console: Console, shown: demonstration.Shown) -> None:
    console.print(Text().append(shown.case.title, "bold").append(f"  {shown.case.name}", "dim"))
    for step in shown.steps:
        console.print(step_line(step))
        _print_changes(console, step.changes)
        for number, part in enumerate(step.parts, 1):
            recipients = (
                Text().append(f"    part {number}: ", "cyan").append(terminal.escape(", ".join(part.recipients)))
            )
            console.print(recipients)
            _print_changes(console, part.changes, indent="      ")
    for text in _ending(shown):
        console.print(text)
    console.print()


def _print_changes(console: Console, changes: tuple[Change, ...], *, indent: str = "    ") -> None:
    variables = [change for change in changes if change.what == "variable"]
    if variables:
        console.print(Text(indent).append_text(_told_exim(variables)))
    signatures = [change.name for change in changes if _is_signature(change)]
    if signatures:
        console.print(Text(f"{indent}+ {', '.join(signatures)}", "green"))
    others = [change for change in changes if change.what in _SHOWN and not _is_signature(change)]
    width = console.width if console.is_terminal else _NO_TERMINAL_WIDTH
    for text in render(others, unfolded=True):
        line = Text(indent).append_text(text)
        line.truncate(width, overflow="ellipsis")
        console.print(line)


def _is_signature(change: Change) -> bool:
    """A signature field that was added: there is little in it for a person to read."""
    name = change.name.lower()
    return change.what == "header" and change.after is not None and name.startswith(("arc-", "dkim-"))


def _told_exim(variables: list[Change]) -> Text:
    """The variables that say something, for Exim's routers."""
    text = Text().append("for Exim: ", "dim")
    shown = [change for change in variables if change.name in _TELLING and change.after]
    for number, change in enumerate(shown):
        text.append(", " if number else "", "dim")
        text.append(f"{change.name}=").append_text(terminal.plain(change.after or b"", "bold"))
    rest = len(variables) - len(shown)
    if rest:
        text.append(f" and {rest} more", "dim")
    return text


_TELLING = frozenset({"acl_m_dmarc_status", "acl_m_arc_state", "acl_m_route"})


def _ending(shown: demonstration.Shown) -> Iterator[Text]:
    style = _STATE_STYLES.get(shown.state, "bold red")
    if not shown.outputs:
        yield Text().append(f"  ⇒ {shown.state}: ", style).append_text(terminal.plain(shown.reason))
    for output in shown.outputs:
        place = f" in queue {output.queue}" if output.queue else ""
        text = Text().append(f"  ⇒ {shown.state}", style).append(f" as {output.id}{terminal.escape(place)} for ")
        text.append_text(terminal.plain(", ".join(output.recipients)))
        yield text


def _summary(finished: demonstration.Demonstration) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("message", *_METHODS, "became"):
        table.add_column(column, no_wrap=True)
    for shown in finished.shown:
        cells = [terminal.plain(shown.case.name)]
        for method in _METHODS:
            word = shown.results.get(method, "–")
            cells.append(Text(word, style=RESULT_STYLES.get(word, "dim" if word == "–" else "")))
        cells.append(Text(shown.state, style=_STATE_STYLES.get(shown.state, "bold red")))
        table.add_row(*cells)
    return table


def _print_pointers(console: Console, finished: demonstration.Demonstration) -> None:
    place = finished.directory
    console.print(Text("Everything lies in ").append(terminal.escape(place), "bold"))
    first = next((output for shown in finished.shown for output in shown.outputs), None)
    corrupt = next((shown for shown in finished.shown if shown.state == "corrupt"), None)
    # As it was called: in a checkout it is on nobody's path.
    respool = "respool" if shutil.which("respool") is not None else shlex.quote(sys.argv[0])
    commands: list[tuple[str, str]] = []
    if first is not None:
        commands.append((f"{respool} show {shlex.quote(first.path)}", "one message as requeued"))
    commands += [
        (f"{respool} list {shlex.quote(place)}/spool", "all of them, as mailq would"),
        (
            f"{respool} auth {shlex.quote(place)}/spool/input --zone {shlex.quote(place)}/dns.zone",
            "what the next hop will find: our seal",
        ),
    ]
    if corrupt is not None:
        commands.append((f"ls {shlex.quote(place)}/state/corrupt/*", "what was set aside"))
    commands += [
        (f"less {shlex.quote(place)}/respool.toml", "the configuration that did it"),
        (f"less {shlex.quote(place)}/result.json", "all of this for programs; respool.log beside it"),
    ]
    for command, what in commands:
        console.print(Text(f"  {terminal.escape(command)}").append(f"  # {what}", "dim"))
