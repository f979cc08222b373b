"""``respool srs`` and the check of routing tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from respool.errors import ConfigError
from respool.sidecar.cli import cli


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text("mysecret\n")
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("dialect", ["exim", "standard"])
def test_forward_and_reverse(secret: str, dialect: str) -> None:
    options = ("--dialect", dialect, "--secret-file", secret)
    forwarded = run("srs", "forward", *options, "--domain", "fwd.example", "alice@example.org", "bob@example.org")
    assert forwarded.exit_code == 0
    addresses = forwarded.stdout.split()
    assert all(address.startswith("SRS0=") and address.endswith("@fwd.example") for address in addresses)
    assert run("srs", "reverse", *options, *addresses).stdout.split() == ["alice@example.org", "bob@example.org"]


def test_what_cannot_be_read_is_reported(secret: str) -> None:
    result = run("srs", "reverse", "--secret-file", secret, "x@y.example", "SRS0=8c82=aa=a\x1b[31m=b@c")
    assert result.exit_code == 1
    assert "x@y.example: not an SRS0 address" in result.stderr
    assert "\x1b" not in result.stderr
    assert result.stdout == ""


def test_json(secret: str) -> None:
    result = run("srs", "reverse", "--json", "--secret-file", secret, "x@y.example")
    assert json.loads(result.stdout) == {"address": "x@y.example", "result": None, "problem": "not an SRS0 address"}
    assert result.exit_code == 1


def test_bad_options(secret: str, tmp_path: Path) -> None:
    assert run("srs", "forward", "--secret-file", secret, "--domain", "a b", "x@y").exit_code == 2
    assert run("srs", "forward", "--secret-file", secret, "x@y").exit_code == 2
    assert run("srs", "forward", "--secret-file", secret, "--domain", "a.b").exit_code == 2
    with pytest.raises(ConfigError, match="No such file"):
        run("srs", "reverse", "--secret-file", str(tmp_path / "absent"), "x@y")


def test_check_of_a_routing_table(tmp_path: Path) -> None:
    source, target = tmp_path / "routes", str(tmp_path / "routes.mdb")
    source.write_text("a.example: mx.example; queue=slow\nb.example: que=slow\n")
    refused = run("table", "build", "--check", "route", str(source), target)
    assert refused.exit_code == 1
    assert f"{source}:2: " in refused.stderr
    assert 'did you mean "queue"' in refused.stderr
    assert not Path(target).exists()
    assert run("table", "build", str(source), target).exit_code == 0
