"""``respool seal``: what it prints verifies, and what it can't seal it says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from respool import ConfigError
from respool.lookups.zone import ZoneResolver
from respool.processors.authentication.arc_verify import ArcSignatures
from respool.processors.authentication.keys import KeyLookup
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.signature_check import Times
from respool.sidecar import demo
from respool.sidecar.cli import cli
from respool.sidecar.sample_cases import load

SAMPLES = Path(__file__).resolve().parents[3] / "samples" / "spool"
RESULTS = "spf=pass smtp.mailfrom=remote.example"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(demo.run(str(tmp_path_factory.mktemp("demo")), load()).directory)


def seal(finished: Path, path: object, *more: str, authserv_id: str = "mx.example.test") -> Result:
    return CliRunner().invoke(
        cli,
        [
            *("seal", str(path), "--domain", "example.test", "--selector", "demo", "--authserv-id", authserv_id),
            *("--key", str(finished / "keys" / "demo.pem"), "--zone", str(finished / "dns.zone"), *more),
        ],
    )


def eml(case: str) -> bytes:
    """A sample as a message file."""
    (found,) = [found for found in load() if found.name == case]
    headers = found.header_file.split(b"\n\n", 1)[1]
    text = b"".join(line[5:] if line[:3].isdigit() else line for line in headers.splitlines(keepends=True))
    return text + b"\n" + found.data_file[found.id.body_offset :]


@pytest.mark.parametrize(("case", "instance"), [("spf-dmarc-pass", 1), ("arc-earlier-hop", 2)])
def test_the_set_verifies_on_top_of_the_message(finished: Path, tmp_path: Path, case: str, instance: int) -> None:
    path = tmp_path / "message.eml"
    path.write_bytes(eml(case))
    result = seal(finished, path, "--results", RESULTS)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("ARC-Seal: ")
    sealed = AuthenticatedMessage.from_bytes(result.stdout_bytes + path.read_bytes())
    keys = KeyLookup(ZoneResolver.from_file(str(finished / "dns.zone")), None)
    verified = ArcSignatures(sealed).verify(keys, Times.of(time.time(), None))
    assert (verified.result.value, verified.instance) == ("pass", instance)
    assert f"i={instance}; mx.example.test;\n {RESULTS}" in result.stdout


def test_a_pair_and_a_directory_of_pairs(finished: Path) -> None:
    (header_file,) = (SAMPLES / "wire-format").glob("*-H")
    one = seal(finished, header_file, "--results", RESULTS, "--json")
    document = json.loads(one.stdout)
    assert [header["name"] for header in document["headers"]] == [
        "ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results",
    ]  # fmt: skip
    whole = seal(finished, finished / "spool" / "input", "--json")
    assert whole.exit_code == 0
    lines = [json.loads(line) for line in whole.stdout.splitlines()]
    assert len(lines) == len(load()) - 1
    # They have been sealed before, by respool itself.
    assert {line["instance"] for line in lines} == {2, 3}


def test_without_results_of_ours_there_is_nothing_to_vouch_for(finished: Path) -> None:
    result = seal(finished, SAMPLES / "arc-earlier-hop")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "not sealed: no Authentication-Results of mx.example.test" in result.stderr


@pytest.mark.parametrize("results", ["", "none of it", "spf", "spf=pass\nBcc: x@y.example", "none"])
def test_results_that_are_none_are_refused(finished: Path, results: str) -> None:
    result = seal(finished, SAMPLES / "spf-dmarc-pass", "--results", results)
    assert result.exit_code == 2, result.output
    assert "--results" in result.stderr


def test_names_that_cannot_be_used_are_refused(finished: Path) -> None:
    assert seal(finished, SAMPLES / "spf-dmarc-pass", "--results", RESULTS, authserv_id="a b;").exit_code == 2
    broken = CliRunner().invoke(
        cli,
        [
            *("seal", str(SAMPLES / "spf-dmarc-pass"), "--domain", "example.test; b=", "--selector", "x"),
            *("--authserv-id", "x.example", "--key", str(finished / "keys" / "demo.pem")),
        ],
    )
    assert isinstance(broken.exception, ConfigError)
