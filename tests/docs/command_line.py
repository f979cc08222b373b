"""docs/command-line.md, made from the commands themselves: ``python -m tests.docs.command_line > docs/command-line.md``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from respool.sidecar.cli import cli
from respool.sidecar.cli.examples import EXAMPLES

PREAMBLE = """\
# The command line

Made from the commands' own help: `respool COMMAND --help` says the same. Scripts may depend on it.

`PATH` is a `-H` file with its `-D` beside it, a directory with such pairs, or an `.eml`. `--json` prints one
JSON document on standard output, or one a line where there are several; all else goes to standard error.
Progress bars are shown where standard error is a terminal. What comes from messages has control, escape and
bidirectional characters escaped wherever a terminal might read it.

| exit code | |
|---|---|
| 0 | done; also when the answer is a *fail* of authentication |
| 1 | some messages failed, each reported; for `lookup`: the key is absent |
| 2 | usage |
| 75 | temporary trouble: try again |
| 78 | the configuration can't be used: file, key and what was expected are on standard error |
"""


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def document() -> str:
    """The whole page."""
    parts = [PREAMBLE]
    for path, command in commands(cli, "respool"):
        parts.append(section(path, command))
    return "\n".join(parts)


def section(path: str, command: click.Command) -> str:
    """One command: how it is called, what it does, its options."""
    context = click.Context(command, info_name=path)
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"## {path}", "", "```", " ".join(usage.split()), "```", "", *paragraphs(command.help or ""), ""]
    rows = [
        (parameter, record)
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)) is not None
    ]
    if rows:
        lines += ["| option | |", "|---|---|"]
        lines += [f"| `{name}` | {cell(help_text)} |" for _, (name, help_text) in rows if "--help" not in name]
        lines.append("")
    examples = EXAMPLES.get(path.removeprefix("respool "), ())
    if examples:
        lines += ["```", *(line for what, how in examples for line in (f"# {what}", f"respool {how}")), "```", ""]
    return "\n".join(lines)


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def paragraphs(text: str) -> Iterator[str]:
    """The help text; what click is told to leave as it is becomes a block."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield f"```\n{paragraph[2:]}\n```\n"
        else:
            yield paragraph + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
