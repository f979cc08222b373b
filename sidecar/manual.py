"""Manual pages, made from the commands' own help and from the settings' own descriptions.

``python -m respool.sidecar.manual DIR`` writes all of them, and the completion scripts,
below DIR as they are installed.

Diagnostics: OSError where DIR can't be written.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator
from typing import Final

import click

from .cli import cli
from .cli.completion import SHELLS, script
from .cli.examples import EXAMPLES
from .config_example import EximPlaces, example

_EXIT_CODES: Final = (
    ("0", "done; also when the answer is a fail of authentication"),
    ("1", "some messages failed, each reported; for lookup: the key is absent"),
    ("2", "usage"),
    ("75", "temporary trouble: try again"),
    ("78", "the configuration can't be used"),
)
#: Of the manual's present form: a page is the same whenever it is made.
_DATE: Final = "2026-11-22"
_PLACES: Final = {
    "bash": "bash-completion/completions/respool",
    "zsh": "zsh/site-functions/_respool",
    "fish": "fish/vendor_completions.d/respool.fish",
}


def pages() -> Iterator[tuple[str, str]]:
    """Every page: its file name and its text."""
    commands = list(_commands(cli, ""))
    yield "respool.1", _overview(commands)
    for words, command in commands:
        name = "respool-" + words.replace(" ", "-")
        yield f"{name}.1", _page(name, words, command)
    yield "respool.toml.5", _settings()


def files() -> Iterator[tuple[str, str]]:
    """What is installed below share/: pages and completion scripts, by their paths there."""
    for name, text in pages():
        yield f"man/man{name[-1]}/{name}", text
    for shell in SHELLS:
        yield _PLACES[shell], script(shell)


def _commands(group: click.Group, before: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")
        elif command is not None:
            yield f"{before}{name}", command


def _text(text: str) -> str:
    """Text as roff takes it: nothing of it a request or an escape."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    escaped = escaped.replace("…", "...").replace("→", "\\(->").replace("–", "\\(en").replace("§", "\\(sc")
    return "\n".join("\\&" + line if line.startswith(".") else line for line in escaped.split("\n"))


def _head(name: str, section: int, what: str) -> list[str]:
    return [
        f'.TH {name.upper()} {section} {_DATE} respool "respool manual"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(what)}",
    ]


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from (".PP", ".nf", _text(paragraph[2:]), ".fi")
        else:
            yield from (".PP", _text(" ".join(paragraph.split())))


def _examples(words: str) -> Iterator[str]:
    for what, how in EXAMPLES.get(words, ()):
        yield from (".PP", _text(what[:1].upper() + what[1:]) + ":", ".PP", ".nf", ".RS 4", _text(f"respool {how}"))
        yield from (".RE", ".fi")


def _page(name: str, words: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"respool {words}")
    help_text = inspect.cleandoc(command.help or "")
    lines = _head(name, 1, help_text.split(".")[0].replace("\n", " "))
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    lines += [".SH SYNOPSIS", ".B " + _text(f"respool {words}"), _text(usage.removeprefix(f"respool {words}").strip())]
    lines += [".SH DESCRIPTION", *list(_paragraphs(help_text))[1:]]
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    rows = [record for option in options if (record := option.get_help_record(context)) is not None]
    lines += [".SH OPTIONS"]
    for option, text in rows:
        lines += [".TP", f".B {_text(option)}", _text(" ".join(text.split()))]
    if words in EXAMPLES:
        lines += [".SH EXAMPLES", *list(_examples(words))[1:]]
    lines += [".SH EXIT STATUS", *_exit_codes(), ".SH SEE ALSO", ".BR respool (1),", ".BR respool.toml (5)"]
    return "\n".join(lines) + "\n"


def _exit_codes() -> Iterator[str]:
    for code, meaning in _EXIT_CODES:
        yield from (".TP", f".B {code}", _text(meaning))


def _overview(commands: list[tuple[str, click.Command]]) -> str:
    lines = _head("respool", 1, "works on the mail of Exim, between spool and spool")
    lines += [".SH SYNOPSIS", ".B respool", ".I COMMAND", "[OPTIONS] [ARGUMENTS]", ".SH DESCRIPTION"]
    lines += [*list(_paragraphs(cli.help or ""))[1:], ".SH COMMANDS"]
    for words, command in commands:
        first = inspect.cleandoc(command.help or "").partition("\n\n")[0]
        page = "respool\\-" + _text(words.replace(" ", "-"))
        lines += [".TP", f".BR {page} (1)", _text(" ".join(first.split()))]
    lines += [".SH EXIT STATUS", *_exit_codes(), ".SH FILES", ".TP", ".I /etc/respool/respool.toml"]
    lines += ["where the configuration is by convention; every command is told with \\-c.", ".SH SEE ALSO"]
    return "\n".join([*lines, ".BR respool.toml (5),", ".BR exim (8)"]) + "\n"


def _settings() -> str:
    """Every setting with its description and default, in the order of ``respool config example``."""
    lines = _head("respool.toml", 5, "configuration of respool")
    lines += [".SH DESCRIPTION", "TOML. One file describes one sidecar: one source, one target, one pipeline."]
    lines += ["Shown is each setting with its default, or an example of what has none.", ".SH SETTINGS"]
    said: list[str] = []
    setting: list[str] = []
    for line in [*example(EximPlaces()).splitlines()[3:], ""]:
        bare = line.removeprefix("#")
        if line.startswith("# "):
            said.append(line[2:])
        elif bare.startswith("["):
            lines += [".SS " + _text(bare), *(_text(text) for text in said)]
            said = []
        elif re.match(r"[a-z_]+ = ", bare):
            setting = [".TP", ".B " + _text(bare)]
            lines += [*setting, *(_text(text) for text in said)]
            said = []
        elif bare.strip():
            # The rest of a long list.
            lines.append(_text(bare.strip()))
        elif said:
            lines += [".PP", *(_text(text) for text in said)]
            said = []
    return "\n".join([*lines, ".SH SEE ALSO", ".BR respool (1)"]) + "\n"


def write(directory: str) -> None:
    """Write everything below directory. Raises OSError."""
    for path, text in files():
        whole = os.path.join(directory, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    write(sys.argv[1])
