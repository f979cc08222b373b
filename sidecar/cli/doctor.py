"""``respool doctor``: everything around a sidecar looked at, each with what to do.

Diagnostics: exit code 1 for a problem, 78 where the configuration itself can't be used.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections import Counter
from typing import Final

import click
import msgspec
from rich.text import Text

from ...errors import ConfigError
from ..config import Config, load
from ..config_check import check
from ..doctor.daemon import check_daemon
from ..doctor.directories import check_directories, owner_of
from ..doctor.exim import check_exim
from ..doctor.finding import Finding, Findings, Level, ok, problem, warning
from ..doctor.keys import check_keys
from ..doctor.names import check_dns, check_tables
from ..doctor.system import check_system
from ..doctor.user import become
from ..pipeline_setup import make_resolver
from . import EXIT_CONFIG, EXIT_FAILED, terminal

_MARKS: dict[Level, tuple[str, str]] = {
    "ok": ("✓", "green"), "warning": ("!", "bold yellow"), "problem": ("✗", "bold red"),
}  # fmt: skip
_TOPIC: Final = 16
_INDENT: Final = _TOPIC + 2


@click.command()
@click.option(
    "-c", "--config", "config_file", metavar="FILE", help="The sidecar's configuration; without it only the machine."
)
@click.option("--offline", is_flag=True, help="Ask no name server: neither whether it answers, nor for public keys.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(config_file: str | None, *, offline: bool, as_json: bool) -> None:
    r"""Look at everything a sidecar with FILE needs, and say what to do about what is wrong.

    Python and packages, clock and limits, rights of directories and keys, file systems,
    Exim with its recipe and its daemon, DNS and published keys, tables, and the sidecar
    itself if it runs. Nothing is changed. As root it looks as the user whom the sidecar
    has to run as: that user's rights count.

    \b
    Exit codes: 0 no problem, warnings perhaps; 1 a problem; 78 FILE can't be used.
    """
    findings: list[Finding] = []
    code = 0
    for finding in _findings(config_file, offline=offline):
        findings.append(finding)
        if finding.level == "problem":
            code = EXIT_CONFIG if finding.topic == "configuration" else code or EXIT_FAILED
        if not as_json:
            _print(finding)
    counts = Counter(str(one.level) for one in findings)
    if as_json:
        document: dict[str, object] = {"findings": findings}
        document |= {level: counts[level] for level in _MARKS}
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    else:
        found = ", ".join(_counted(counts[level], level) for level in ("problem", "warning"))
        click.echo(f"\n{found}, {counts['ok']} as it should be")
    sys.exit(code)


def _findings(config_file: str | None, *, offline: bool) -> Findings:
    if config_file is None:
        yield from check_system(None)
        yield warning("configuration", "none was named", "respool doctor -c FILE looks at the rest, too")
        return
    try:
        config = load(config_file, Config)
    except ConfigError as error:
        yield from check_system(None)
        yield problem("configuration", str(error), "mend it; respool config example shows every setting")
        return
    yield from check_system(config)
    owner = owner_of(config)
    if owner is not None:
        yield become(owner, config_file)
    yield from _configuration(config_file, config)
    yield from check_directories(config, os.geteuid() if owner is None else owner)
    yield from check_exim(config)
    if not offline:
        yield from check_dns(config)
    try:
        resolver = None if offline else make_resolver(config.dns)
    except ConfigError:
        resolver = None
    yield from check_keys(config, resolver)
    yield from check_tables(config)
    yield from check_daemon(config)


def _configuration(config_file: str, config: Config) -> Findings:
    status = os.stat(config_file)
    if status.st_mode & 0o022 or status.st_uid not in {0, os.geteuid()}:
        yield problem(
            "configuration", f"{config_file} can be written by others: it says which code runs",
            f"chown root {config_file} && chmod go-w {config_file}",
        )  # fmt: skip
    try:
        checked = check(config_file, config)
    except ConfigError as error:
        yield problem("configuration", str(error), "mend it; respool config check says the same")
        return
    processors = ", ".join(checked.processors) or "no processors"
    yield ok("configuration", f"{config_file}: {checked.source} to {checked.requeue}, {processors}")
    for text in checked.warnings:
        yield warning("configuration", text, "see docs/configuration.md")


def _print(finding: Finding) -> None:
    mark, colour = _MARKS[finding.level]
    console = terminal.output()
    found = _beside(finding.found, console.width)
    console.print(Text.assemble((f"{mark} ", colour), (f"{finding.topic:<{_TOPIC}}", "bold"), found))
    if finding.advice:
        console.print(Text(" " * _INDENT + _beside(f"→ {finding.advice}", console.width), style="cyan"))


def _beside(text: str, width: int) -> str:
    """The text in lines that begin below each other, beside the topics.

    One with a word that no line can hold, a key to publish, stays in one piece: it is there to be copied.
    """
    escaped, room = terminal.escape(text), max(width - _INDENT, 20)
    if any(len(word) > room for word in escaped.split()):
        return escaped
    return ("\n" + " " * _INDENT).join(textwrap.wrap(escaped, room, break_on_hyphens=False))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
