"""The commands lookup and table, as scripts use them."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from respool.sidecar.cli.tables import lookup, table
from respool.sidecar.cli.terminal import escape

COMMANDS = click.Group(commands=[lookup, table])


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(COMMANDS, [str(argument) for argument in arguments])


@pytest.fixture
def built(tmp_path: Path) -> Path:
    source = tmp_path / "routes"
    source.write_text('*.example.org: wild\nuser@example.org: one\nUSER@example.org: two\n"a b": c\n*: default\n')
    target = tmp_path / "routes.mdb"
    done = run("table", "build", source, target)
    assert done.exit_code == 0, done.output
    assert "4 entries" in done.stdout
    assert "1 later entries of the same keys dropped (lines 3)" in done.stdout
    return target


@pytest.mark.parametrize(
    ("kind", "key", "code", "output"),
    [
        ("lmdb", "user@example.org", 0, "one\n"),
        ("lmdb", "nobody@example.org", 1, ""),
        ("lmdb*", "nobody@example.org", 0, "default\n"),
        ("partial-lmdb", "a.b.example.org", 0, "wild\n"),
        ("lmdb", "", 1, ""),
    ],
)
def test_lookup(built: Path, kind: str, key: str, code: int, output: str) -> None:
    done = run("lookup", kind, built, key)
    assert (done.exit_code, done.stdout) == (code, output)


def test_lookup_as_json(built: Path) -> None:
    done = run("lookup", "--json", "partial-lmdb", built, "a.b.example.org")
    assert json.loads(done.stdout) == {
        "found": True, "value": "wild", "key": "*.example.org", "wild": "a.b", "fixed": "example.org",
    }  # fmt: skip
    done = run("lookup", "--json", "lmdb", built, "nobody")
    assert (done.exit_code, json.loads(done.stdout)) == (1, {"found": False})


def test_codes_of_trouble(built: Path, tmp_path: Path) -> None:
    done = run("lookup", "lmdb", tmp_path / "none", "key")
    assert (done.exit_code, done.stdout) == (75, "")
    assert "No such file" in done.stderr
    wrong = run("lookup", "cdb", built, "key")
    assert (wrong.exit_code, "'cdb' is no TYPE: expected lmdb" in wrong.stderr) == (2, True)
    assert run("table", "dump", tmp_path / "none").exit_code == 75
    assert run("table", "build", tmp_path / "none", built).exit_code == 2
    bad = tmp_path / "bad"
    bad.write_text('"open: x\n')
    done = run("table", "build", bad, built)
    assert done.exit_code == 1
    assert f"{bad}:1: a quoted key" in done.stderr
    assert run("table", "build", bad, built, "--mode", "9").exit_code == 2
    assert run("table", "build", bad, built, "--group", "no such group").exit_code == 2
    bad.write_text("a: b\n")
    done = run("table", "build", bad, tmp_path / "no" / "table")
    assert done.exit_code == 75
    assert "No such file" in done.stderr


def test_dump_is_built_again(built: Path, tmp_path: Path) -> None:
    done = run("table", "dump", built)
    assert done.stdout == '*: default\n*.example.org: wild\n"a b": c\nuser@example.org: one\n'
    lines = run("table", "dump", "--json", built).stdout
    (tmp_path / "again.jsonl").write_text(lines)
    done = run("table", "build", "--json", tmp_path / "again.jsonl", tmp_path / "again.mdb")
    assert json.loads(done.stdout)["entries"] == 4
    assert run("table", "dump", "--json", tmp_path / "again.mdb").stdout == lines


def test_what_a_terminal_is_shown() -> None:
    assert escape("é\x1b[31m\u202e\n\t".encode() + b"\xff[bold]") == r"é\x1b[31m\u202e\n\t\xff[bold]"
