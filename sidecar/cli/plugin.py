"""``respool plugin new``, ``list`` and ``test``: for those who write processors.

Diagnostics: ConfigError for a name or place that can't be used, and for a processor that
can't be loaded; exit code 1 where a processor breaks the contract.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click
import msgspec
import structlog
from msgspec import Struct
from rich.text import Text

from ...errors import ConfigError, SpoolFormatError
from ...lookups.zone import ZoneResolver
from ...processors.api import Context, Freeze, Proceed
from ...processors.contract import Answer, carry_out, check_contract
from ...processors.edits import apply
from ...processors.registry import GROUP, build, find
from ...spool.body import BytesBody
from ...spool.header_file import parse_header_file
from ...spool.message import Message
from .. import difference, log
from ..plugin_project import new_project
from ..sample_cases import load
from .spool_files import OpenMessage, read
from .spool_files import find as find_pairs
from .terminal import escape, output, plain


class Known(Struct, frozen=True, kw_only=True):
    """A processor that is installed; error says why it can't be used."""

    name: str
    distribution: str
    version: str
    place: str
    phase: str = ""
    about: str = ""
    settings: tuple[str, ...] = ()
    error: str = ""


@click.group()
def plugin() -> None:
    """Begin a processor of your own, see what is installed, and try one."""


@plugin.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--directory", default=".", type=click.Path(exists=True, file_okay=False), help="Where the project is made."
)
def new(name: str, directory: str) -> None:
    r"""Make a project for a processor called NAME: code, settings, tests that pass.

    NAME is what a configuration will use, such as my-note. The project is a directory
    respool-NAME, which must not exist yet.

    \b
    Example: respool plugin new my-note && cd respool-my-note && pytest
    """
    root, made = new_project(name, directory)
    console = output()
    console.print(Text("made ").append(escape(root), "bold"))
    for path in made:
        console.print(plain(f"  {path}"))
    console.print(plain("next: pip install -e '.[dev]' there, then pytest; README.md has the rest"))


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON line for each processor.")
def list_command(*, as_json: bool) -> None:
    r"""List every processor that is installed: where it comes from, its phase, its settings.

    Each is imported. One that can't be is listed with the reason, and the others go on.

    \b
    Exit codes: 0 all can be used; 1 some can't.
    """
    found = [
        _look_at(entry) for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))
    ]
    names = [one.name for one in found]
    found = [
        msgspec.structs.replace(one, error="two distributions have a processor of this name")
        if names.count(one.name) > 1 and not one.error
        else one
        for one in found
    ]
    console = output()
    for one in found:
        if as_json:
            sys.stdout.buffer.write(msgspec.json.encode(one) + b"\n")
            continue
        line = Text().append(f"{escape(one.name):<24}", "bold" if not one.error else "bold red")
        line.append(f"{one.phase:<8}").append(f"{escape(one.distribution)} {escape(one.version)}", "dim")
        console.print(line)
        if one.error:
            console.print(Text("    can't be used: ", "red").append(escape(one.error)))
            continue
        console.print(plain(f"    {one.about}"))
        console.print(plain(f"    settings: {', '.join(one.settings) or 'none'}", "dim"))
    sys.stdout.flush()
    sys.exit(1 if any(one.error for one in found) else 0)


def _look_at(entry: EntryPoint) -> Known:
    distribution = entry.dist
    known = Known(
        name=entry.name,
        distribution=distribution.name if distribution is not None else "",
        version=distribution.version if distribution is not None else "",
        place=entry.value,
    )
    try:
        kind = find(entry.name)
        fields = msgspec.structs.fields(kind.config_type)
    except (ConfigError, TypeError, NameError) as error:
        return msgspec.structs.replace(known, error=str(error))
    return msgspec.structs.replace(
        known,
        phase=str(kind.phase),
        about=(kind.__doc__ or "").strip().partition("\n")[0],
        settings=tuple(f"{one.encode_name}{' (required)' if one.required else ''}" for one in fields),
    )


@plugin.command()
@click.argument("use", metavar="NAME")
@click.option(
    "--settings", default="", metavar="TOML", help="Its config table: 'header = \"X\"', or a file with it: @FILE."
)
@click.option(
    "--over", "path", type=click.Path(exists=True), metavar="PATH", help="Your own messages: PATH as for show."
)
@click.option("--deadline", default=10.0, type=click.FloatRange(0.1, 3600), help="Seconds for a message; default 10.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line for each message, and one with the faults.")
def test(use: str, settings: str, path: str | None, deadline: float, *, as_json: bool) -> None:
    r"""Run one processor over sample messages, show what it does, and check that it keeps the contract.

    NAME is an installed processor, or /path/to/file.py:ClassName. Without --over it gets
    the messages that ship with respool. Nothing is written but by the processor itself.

    \b
    Checked: the answer is a verdict with edits that fit, and the same the second time; the
    message is left as it was; the deadline is kept; no descriptor or thread is left over;
    nothing of the process is changed. It sees no results of other processors.

    \b
    Exit codes: 0 it keeps the contract; 1 it does not; 78 it can't be loaded.
    """
    log.configure(level=50)
    processor = build(_absolute(use), _settings(settings))
    with contextlib.ExitStack() as opened:
        given = tuple(_samples() if path is None else _own(path, opened))
        if not given:
            raise click.UsageError(f"{path} holds no message")
        zones = {id(message): zone for message, zone in given}

        def context(message: Message) -> Context:
            return Context(
                hostname="mx.example.org",
                authserv_id="mx.example.org",
                resolver=ZoneResolver.from_text(zones[id(message)]),
                log=structlog.get_logger(),
                now=float(message.envelope.received_time + 60),
                deadline=time.monotonic() + deadline,
            )

        contract = check_contract(processor, (message for message, _ in given), context)
        for answer in contract.answers:
            _show(answer, as_json=as_json)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode({"faults": contract.faults}) + b"\n")
    else:
        console = output()
        for fault in contract.faults:
            console.print(Text("broken: ", "bold red").append(escape(fault)))
        if not contract.faults:
            console.print(Text("keeps the contract", "green").append(f": {len(contract.answers)} messages, twice"))
    sys.stdout.flush()
    sys.stderr.flush()
    if contract.faults:
        # A thread of the processor may never end; nothing waits for it.
        os._exit(1)


def _absolute(use: str) -> str:
    """A file may be named from here; a configuration names it from the root."""
    file, colon, name = use.rpartition(":")
    return f"{os.path.abspath(file)}:{name}" if colon and (file.endswith(".py")) else use


def _settings(text: str) -> dict[str, Any]:
    source = "--settings"
    try:
        if text.startswith("@"):
            source = text[1:]
            with open(source, encoding="utf-8") as file:
                text = file.read()
        return tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error), file=source) from error


def _samples() -> Iterator[tuple[Message, str]]:
    for case in load():
        try:
            envelope = parse_header_file(case.header_file, file=case.name)
        except SpoolFormatError:
            continue  # a sample of what processors never see
        content = case.data_file[case.id.body_offset :]
        yield Message(envelope, BytesBody(content, wireformat=envelope.is_wireformat)), case.zone


def _own(path: str, opened: contextlib.ExitStack) -> Iterator[tuple[Message, str]]:
    for place in find_pairs(path):
        stored = read(place)
        if stored.first_line is not None:
            yield opened.enter_context(OpenMessage(stored)), ""


def _show(answer: Answer, *, as_json: bool) -> None:
    message, verdict = answer.message, answer.verdict
    changes: list[tuple[difference.Change, ...]] = []
    if verdict is not None:
        parts = carry_out(message, verdict)
        queue = (apply(message, verdict.edits).queue or "") if isinstance(verdict, Proceed | Freeze) else ""
        changes = [difference.compare(message, part, queue=queue) for part in parts]
    kind = "error" if verdict is None else type(verdict).__name__.lower()
    reason = answer.error if verdict is None else verdict.reason
    if as_json:
        document = {
            "id": str(message.id), "verdict": kind, "reason": reason, "seconds": round(answer.seconds, 6),
            "changes": [difference.document(part) for part in changes],
        }  # fmt: skip
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
        return
    console = output()
    line = Text().append(str(message.id), "bold").append(f" {kind}", "red" if verdict is None else "green")
    console.print(line.append(f": {escape(reason)}" if reason else ""))
    for number, part in enumerate(changes, 1):
        if len(changes) > 1:
            console.print(plain(f"    part {number}", "bold"))
        for text in difference.render(part):
            console.print(Text("    ").append_text(text))
