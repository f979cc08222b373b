"""Manual pages and completion scripts are what the commands say, and what man and the shells take."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from respool.sidecar.cli import cli
from respool.sidecar.cli.completion import SHELLS, script
from respool.sidecar.cli.examples import EXAMPLES
from respool.sidecar.manual import files
from tests.conftest import CHECKOUT

from .command_line import commands

COMMANDS = {path.removeprefix("respool "): command for path, command in commands(cli, "respool")}


def test_what_is_installed_is_what_the_commands_say() -> None:
    made = dict(files())
    there = {str(path.relative_to(CHECKOUT / "share")) for path in (CHECKOUT / "share").rglob("*") if path.is_file()}
    assert there == set(made), "rm -r share && python -m respool.sidecar.manual share"
    for path, text in made.items():
        assert (CHECKOUT / "share" / path).read_text() == text, "python -m respool.sidecar.manual share"


@pytest.mark.parametrize("words", sorted(COMMANDS))
def test_every_command_has_an_example(words: str) -> None:
    assert "xample" in (COMMANDS[words].help or "") + (COMMANDS[words].epilog or "")


@pytest.mark.parametrize("words", sorted(EXAMPLES))
def test_examples_are_what_the_command_line_takes(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = COMMANDS[words]
    for _, how in EXAMPLES[words]:
        typed = shlex.split(how.partition(" > ")[0])
        assert typed[: len(words.split())] == words.split()
        arguments = typed[len(words.split()) :]
        # Names stand for what is not here; the rest has to be as the command wants it.
        for parameter in command.params:
            if isinstance(parameter.type, click.Path | click.File):
                monkeypatch.setattr(parameter, "type", click.Path())
        command.make_context(words, arguments)


@pytest.mark.system("man")
def test_man_takes_every_page_without_a_warning() -> None:
    paths = sorted((CHECKOUT / "share" / "man").rglob("*.[15]"))
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", *paths], capture_output=True, text=True, check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100"},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.count("x init") == len(paths)


@pytest.mark.system("mandoc")
def test_mandoc_finds_nothing_wrong() -> None:
    paths = sorted((CHECKOUT / "share" / "man").rglob("*.[15]"))
    done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", *paths], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_the_command_prints_the_script() -> None:
    for shell in SHELLS:
        done = subprocess.run(
            [sys.executable, "-m", "respool", "completion", shell], capture_output=True, text=True, check=True
        )
        assert done.stdout == script(shell)


BASH = """
compopt() {{ printf 'files\\n'; }}
source {script}
COMP_WORDS=({words}) COMP_CWORD={position}
_respool_completion respool
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
autoload -Uz compinit && compinit -u -d {directory}/dump
compadd() {{ local -a found; while (( $# )) && [[ $1 != -a && $1 != -- ]]; do shift; done; shift
    for name in "$@"; do print -l -- "${{(P)name[@]}}"; done }}
_describe() {{ shift 2; print -l -- "${{(P)@[1][@]}}" }}
source {script}
words=({words}) CURRENT={position}
_respool_completion
"""


def completed(shell: str, directory: Path, line: str) -> list[str]:
    """What a shell that has loaded the script offers for a line that is being typed."""
    path = directory / "script"
    path.write_text(script(shell))
    words = line.split(" ")
    quoted = " ".join(shlex.quote(word) for word in words)
    match shell:
        case "bash":
            text = BASH.format(script=path, words=quoted, position=len(words) - 1)
            command = ["bash", "--norc", "-c", text]
        case "zsh":
            text = ZSH.format(script=path, words=quoted, position=len(words), directory=directory)
            command = ["zsh", "-f", "-c", text]
        case _:
            command = ["fish", "--no-config", "-c", f"source {path}; complete --do-complete {shlex.quote(line)}"]
    binaries = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=directory,
        env={**os.environ, "PATH": binaries, "HOME": str(directory)},
    )  # fmt: skip
    assert done.stderr == "", done.stderr
    return [entry.split("\t")[0].partition(":")[0].strip() for entry in done.stdout.splitlines() if entry.strip()]


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=pytest.mark.system(shell)) for shell in SHELLS])
def test_a_shell_completes_commands_options_and_files(shell: str, tmp_path: Path) -> None:
    (tmp_path / "respool.toml").touch()
    assert {"doctor", "dmarc", "demo"} <= set(completed(shell, tmp_path, "respool d"))
    assert set(completed(shell, tmp_path, "respool held r")) == {"release"}
    assert "--as-is" in completed(shell, tmp_path, "respool held release --a")
    assert set(completed(shell, tmp_path, "respool completion z")) == {"zsh"}
    # zsh's _files needs the line editor; bash is told to complete files itself.
    files_of = {"bash": "files", "fish": "respool.toml"}
    if shell in files_of:
        assert files_of[shell] in completed(shell, tmp_path, "respool run -c resp")
