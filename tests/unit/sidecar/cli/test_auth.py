"""``respool auth``: the document that scripts read, and what a person sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from respool.errors import NotReadyError, SpoolFormatError
from respool.sidecar.cli.auth import auth

_ZONE = """
example.com. TXT "v=spf1 ip4:192.0.2.1 -all exp=why.example.com"
why.example.com. TXT "%{i} may not"
_dmarc.example.com. TXT "v=DMARC1; p=reject"
"""
_ID = "1abcde-000000-00"


@pytest.fixture
def zone(tmp_path: Path) -> str:
    file = tmp_path / "zone"
    file.write_text(_ZONE)
    return str(file)


@pytest.fixture
def eml(tmp_path: Path) -> str:
    file = tmp_path / "m.eml"
    file.write_bytes(b"From: A <a@example.com>\r\nSubject: \x1b[2Jhi\r\n\r\nHello\r\n")
    return str(file)


def _pair(directory: Path, message_id: str = _ID) -> Path:
    header = b"From: A\n\t<a@example.com> (comment)\n"
    header_file = directory / f"{message_id}-H"
    header_file.write_bytes(
        message_id.encode() + b"-H\nexim 8 8\n<u@example.com>\n1700000000 0\n"
        b"-helo_name mail.example.com\n-host_address [192.0.2.1]:4711\nXX\n1\nto@example.net\n\n"
        + b"%03dF %b"
        % (len(header), header)
    )
    (directory / f"{message_id}-D").write_bytes(message_id.encode() + b"-D\nHello\n")
    return header_file


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(auth, arguments, catch_exceptions=False)


def _json(*arguments: str) -> dict[str, Any]:
    result = _run(*arguments, "--json")
    assert result.exit_code == 0
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_an_eml_with_an_identity(eml: str, zone: str) -> None:
    document = _json(
        eml, "--ip", "192.0.2.1", "--helo", "h", "--mail-from", "u@example.com", "--zone", zone, "--authserv-id", "mx"
    )
    assert document["spf"]["result"] == "pass"
    assert (document["spf"]["domain"], document["spf"]["scope"]) == ("example.com", "mailfrom")
    assert [signature["result"] for signature in document["dkim"]] == ["none"]
    assert document["arc"] == {"result": "none", "reason": "", "instance": 0, "oldest_pass": None, "domains": []}
    dmarc = document["dmarc"]
    assert (dmarc["result"], dmarc["status"], dmarc["policy"]) == ("pass", "accept", "reject")
    assert (dmarc["domain"], dmarc["organizational_domain"]) == ("example.com", "example.com")
    assert dmarc["alignment"] == {"spf": True, "dkim": False}
    assert document["authentication_results"] == (
        "mx;\n\tspf=pass smtp.mailfrom=example.com;\n\tdkim=none;\n"
        "\tdmarc=pass header.from=example.com policy.dmarc=reject;\n\tarc=none"
    )


def test_an_eml_without_an_identity(eml: str, zone: str) -> None:
    document = _json(eml, "--zone", zone)
    assert (document["spf"]["result"], document["spf"]["reason"]) == ("none", "no client address")
    assert (document["dmarc"]["result"], document["dmarc"]["status"]) == ("fail", "reject")


def test_a_pair_brings_its_identity(tmp_path: Path, zone: str) -> None:
    document = _json(str(_pair(tmp_path)), "--zone", zone)
    assert (document["spf"]["result"], document["dmarc"]["result"]) == ("pass", "pass")
    changed = _json(str(_pair(tmp_path)), "--zone", zone, "--ip", "203.0.113.1")
    assert (changed["spf"]["result"], changed["spf"]["explanation"]) == ("fail", "203.0.113.1 may not")
    null = _json(str(_pair(tmp_path)), "--zone", zone, "--mail-from", "")
    assert (null["spf"]["scope"], null["spf"]["domain"]) == ("helo", "mail.example.com")


def test_a_directory_is_one_line_a_message(tmp_path: Path, zone: str) -> None:
    directory = tmp_path / "input"
    directory.mkdir()
    _pair(directory)
    _pair(directory, "1abcde-000000-01")
    lines = _run(str(directory), "--zone", zone, "--json").stdout.splitlines()
    assert [json.loads(line)["dmarc"]["result"] for line in lines] == ["pass", "pass"]


def test_what_a_person_sees(eml: str, zone: str) -> None:
    result = _run(eml, "--zone", zone, "--ip", "203.0.113.1", "--mail-from", "<\x1b[1m@example.com>")
    assert result.exit_code == 0
    assert "203.0.113.1 may not" in result.stdout
    assert "nothing aligned" in result.stdout
    assert "\x1b" not in result.stdout


def test_signatures_are_shown(tmp_path: Path, zone: str) -> None:
    file = tmp_path / "signed.eml"
    file.write_bytes(
        b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=lists.example; s=s; b=AA==\n"
        b"DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=s; h=from; bh=AA==; b=AA==\n"
        b"From: a@example.com\n\nHello\n"
    )
    shown = " ".join(_run(str(file), "--zone", zone).stdout.split())
    assert "s._domainkey.example.com; rsa-sha256" in shown
    assert "1 set by lists.example; i=1 (missing header)" in shown


def test_dmarc_by_the_suffix_list(eml: str, zone: str, tmp_path: Path) -> None:
    suffixes = tmp_path / "suffixes"
    suffixes.write_text("com\n")
    document = _json(eml, "--zone", zone, "--suffix-list", "--suffix-list-file", str(suffixes))
    assert document["dmarc"]["organizational_domain"] == "example.com"


def test_what_cannot_be_read(tmp_path: Path, zone: str) -> None:
    header_file = _pair(tmp_path)
    (tmp_path / f"{_ID}-D").unlink()
    with pytest.raises(NotReadyError):
        _run(str(header_file), "--zone", zone)
    header_file.write_bytes(b"rubbish\n")
    with pytest.raises(SpoolFormatError):
        _run(str(header_file), "--zone", zone)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert _run(str(empty), "--zone", zone).exit_code == 2
    assert _run(str(tmp_path / "absent")).exit_code == 2


@pytest.mark.parametrize("arguments", [("--ip", "x"), ("--authserv-id", "a\nb"), ("--authserv-id", "")])
def test_usage(eml: str, zone: str, arguments: tuple[str, str]) -> None:
    assert _run(eml, "--zone", zone, *arguments).exit_code == 2
