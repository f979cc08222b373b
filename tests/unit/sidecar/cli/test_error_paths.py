"""Every command given what it can't use: one sentence, an honest exit code, never a traceback or a raw escape."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
import pytest

from respool.sidecar.cli import cli, main
from respool.sidecar.cli.examples import EXAMPLES
from tests.docs.command_line import commands

COMMANDS = {path.removeprefix("respool "): command for path, command in commands(cli, "respool")}
#: Commands that are given no file.
_PLAIN = {"completion", "config example", "demo", "dmarc check", "plugin list", "plugin new"}


class Done(msgspec.Struct):
    returncode: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Iterator[Callable[..., Done]]:
    """``respool`` in this process: as many as these would take minutes to start."""
    monkeypatch.chdir(tmp_path)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["respool", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        stdout, stderr = capfdbinary.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Done(code or 0, stdout, stderr)

    yield call
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def with_names(words: str, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first example of a command, with every file of it replaced, and what is checked by click let through."""
    typed = shlex.split(EXAMPLES[words][0][1].partition(" > ")[0])[len(words.split()) :]
    command = COMMANDS[words]
    for parameter in command.params:
        if isinstance(parameter.type, click.Path | click.File):
            monkeypatch.setattr(parameter, "type", click.Path())
    return [name if "/" in one or one.endswith((".eml", ".txt")) else one for one in typed]


@pytest.mark.parametrize("words", sorted(set(EXAMPLES) & set(COMMANDS) - _PLAIN))
@pytest.mark.parametrize("kind", ["absent", "binary", "directory"])
def test_what_can_not_be_used_is_one_sentence(
    words: str, kind: str, tmp_path: Path, run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = tmp_path / "a\x1b[31mb"
    if kind == "binary":
        name.write_bytes(bytes(range(256)) * 16)
    elif kind == "directory":
        name.mkdir()
    done = run(*words.split(), *with_names(words, str(name), monkeypatch))
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert b"\x1b" not in done.stderr
    # The one that prints a file's name for a script prints it as it is.
    assert b"\x1b" not in done.stdout or words == "dmarc history rotate"
    if kind == "absent":
        assert done.returncode in {1, 2, 75, 78}, done.stderr.decode()
        assert done.stderr.strip() or words == "doctor"
    else:
        assert done.returncode in {0, 1, 2, 75, 78}
        # A directory that is empty has nothing wrong in it; everything else says what is.
        assert done.returncode == 0 or done.stderr.strip() or words in {"doctor", "check"}


def test_a_misspelt_command_is_named(run: Callable[..., Done]) -> None:
    for typed, meant in (("docter", "doctor"), ("held lst", "list"), ("config chek", "check")):
        done = run(*typed.split())
        assert done.returncode == 2
        assert f"Did you mean '{meant}'?".encode() in done.stderr
