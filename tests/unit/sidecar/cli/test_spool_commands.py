"""respool show, list and check, against what Exim says of the same files."""

import base64
import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from respool.sidecar.cli import terminal
from respool.sidecar.cli.check import check
from respool.sidecar.cli.mailq import list_messages
from respool.sidecar.cli.show import show
from respool.sidecar.cli.spool_files import Place
from respool.spool.check import Finding
from tests.spool_corpus import SAMPLES, Sample

check_module = importlib.import_module("respool.sidecar.cli.check")
DATA = SAMPLES[0].root.parent


def run(command: Any, *arguments: str) -> Result:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def raw(value: str | dict[str, str] | None) -> bytes:
    if value is None:
        return b""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_show_json_agrees_with_exim(sample: Sample) -> None:
    result = run(show, str(sample.header_path), "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    texts = {
        "id": "message_exim_id", "sender": "sender_address", "host_address": "sender_host_address",
        "host_name": "sender_host_name", "helo_name": "sender_helo_name", "received_protocol": "received_protocol",
        "auth_id": "authenticated_id",
    }  # fmt: skip
    assert {key: raw(document[key]) for key in texts} == {key: sample.exim(name) for key, name in texts.items()}
    numbers = {
        "received_time": "received_time", "host_port": "sender_host_port", "body_size": "message_body_size",
        "message_size": "message_size",
    }  # fmt: skip
    assert {key: document[key] for key in numbers} == {k: int(sample.exim(name)) for k, name in numbers.items()}
    tls = {"cipher": "tls_in_cipher", "version": "tls_in_ver", "peerdn": "tls_in_peerdn", "sni": "tls_in_sni"}
    assert {key: raw(document["tls"][key]) for key in tls} == {key: sample.exim(name) for key, name in tls.items()}
    for kind in ("acl_m", "acl_c"):
        for name, value in document[kind].items():
            assert raw(value) == sample.exim(name) or name not in sample.entry["exim_vars"]
    assert b", ".join(raw(recipient["address"]) for recipient in document["recipients"]) == sample.exim("recipients")
    delivered = re.findall(r"^ {8}D (.*)$", sample.entry["bpa"], re.MULTILINE)
    seen = [recipient["address"] for recipient in document["recipients"] if recipient["delivered"]]
    assert set(seen) >= set(delivered)
    assert document["id_format"] == ("long" if len(sample.id) == 23 else "short")
    assert document["body_offset"] == len(sample.id) + 3
    assert document["frozen"] == ("*** frozen ***" in sample.entry["bpa"])
    fields = [header for header in document["headers"] if header["flag"] != "*"]
    sent = b"".join(raw(header["name"]) + b":" + raw(header["value"]) + b"\n" for header in fields)
    assert len(sent) == document["message_size"] - document["body_size"] - 1


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_show_raw_is_what_exim_sends(sample: Sample) -> None:
    result = run(show, str(sample.header_path), "--raw")
    if not sample.envelope.is_wireformat:
        assert hashlib.sha256(result.stdout_bytes).hexdigest() == sample.entry["Mvc_sha256"]
    else:
        assert b"\r\n" not in result.stdout_bytes


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if s.case in {"aclvars", "onetime_nested_dsn", "odd_headers"}], ids=repr
)
def test_show_for_people(sample: Sample) -> None:
    result = run(show, str(sample.header_path))
    assert result.exit_code == 0
    for recipient in sample.envelope.recipients:
        assert terminal.escape(recipient.address) in result.stdout
    for header in sample.envelope.headers:
        assert terminal.escape(header.name) in result.stdout


def test_list_looks_like_bp() -> None:
    result = run(list_messages, str(DATA / "spool-496"))
    assert result.exit_code == 0
    seen = re.findall(r"^ *\d+[mhd] (.{5}) (\S+) <(.*)>", result.stdout, re.MULTILINE)
    expected: dict[str, tuple[str, str]] = {}
    for sample in SAMPLES:
        found = re.match(r" *\d+[mhd] (.{5}) (\S+) <(.*)>", sample.entry["bpa"])
        if sample.root.name == "spool-496" and found is not None:
            expected[found[2]] = (found[1], found[3])
    assert {name: (size, sender) for size, name, sender in seen if sender.isascii()} == {
        name: values for name, values in expected.items() if values[1].isascii()
    }
    assert result.stdout.count("*** frozen ***") == sum("*** frozen ***" in s.entry["bpa"] for s in SAMPLES)


def test_list_json_marks_the_delivered_also_by_the_journal() -> None:
    result = run(list_messages, str(DATA / "spool-496" / "main"), "--json")
    documents = {document["id"]: document for document in json.loads(result.stdout)}
    journal = next(sample for sample in SAMPLES if sample.case == "journal")
    assert [recipient["delivered"] for recipient in documents[journal.id]["recipients"]] == [False, True, True, False]
    assert {document["directory"] for document in documents.values()} == {"input", "slowlane/input"}


def test_check_finds_nothing_wrong_with_exims_files() -> None:
    result = run(check, str(DATA), "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["checked"], document["errors"]) == (0, 111, 0)


HOSTILE = b"\x1b]0;owned\x07[bold red]\xe2\x80\xaeevil\x9b31m\xff"


@pytest.fixture
def hostile_directory(tmp_path: Path) -> Path:
    value = b"\x1b[2J\n[link=x]"
    head = (
        b"1xV9D2-0007Yr-05-H\n%b 0 0\n<%b>\n1795360228 0\n-helo_name %b\n-aclm _x %d\n%b\n-body_linecount 9\nXX\n1\n"
        b"%b@x.ex\n\n"
    ) % (HOSTILE, HOSTILE, HOSTILE, len(value), value, HOSTILE)
    field = b"X-%b: %b\n" % (b"\x1b[31m", HOSTILE)
    (tmp_path / "1xV9D2-0007Yr-05-H").write_bytes(head + b"%03d  %b" % (len(field), field))
    (tmp_path / "1xV9D2-0007Yr-05-D").write_bytes(b"1xV9D2-0007Yr-05-D\nbody \x1b[2J\n")
    (tmp_path / "1xV9D3-0007Yr-05-H").write_bytes(b"1xV9D3-0007Yr-05-H\n\x1b[31m[bold]\n")
    os.mkfifo(tmp_path / "1xV9D4-0007Yr-05-H")
    (tmp_path / "1xV9D5-0007Yr-05-H").symlink_to("/etc/passwd")
    (tmp_path / "\x1b[31m-H").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("command", [show, list_messages, check])
def test_message_bytes_never_steer_the_terminal(hostile_directory: Path, command: Any) -> None:
    result = run(command, str(hostile_directory))
    assert result.exit_code == 1
    for stream in (result.stdout, result.stderr):
        assert all(character.isprintable() or character == "\n" for character in stream)
    if command is not check:
        # What looks like markup is printed, not obeyed.
        assert "[bold red]" in result.stdout


def test_json_of_bytes_that_are_not_utf_8(hostile_directory: Path) -> None:
    result = run(show, str(hostile_directory / "1xV9D2-0007Yr-05-H"), "--json")
    assert raw(json.loads(result.stdout)["sender"]) == HOSTILE


def test_check_says_file_line_expected_and_found(hostile_directory: Path) -> None:
    document = json.loads(run(check, str(hostile_directory), "--json").stdout)
    found = {(finding["file"], finding["line"], finding["rule"]) for finding in document["findings"]}
    assert ("1xV9D3-0007Yr-05-H", 2, "format") in found
    assert ("1xV9D2-0007Yr-05-H", 0, "body-linecount") in found
    assert ("1xV9D2-0007Yr-05-H", 14, "header-name") in found


def test_check_counts_messages_not_faults(hostile_directory: Path) -> None:
    result = run(check, str(hostile_directory))
    assert result.stdout.count("error 1xV9D2-0007Yr-05-H") > 1
    assert result.stdout.endswith("2 checked, 2 wrong\n")


def test_a_message_that_comes_during_a_check_is_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = next(sample for sample in SAMPLES if sample.case == "plain" and sample.root.name == "spool-496")
    header, data = tmp_path / f"{sample.id}-H", tmp_path / f"{sample.id}-D"
    header.write_bytes(sample.header_data)
    data.write_bytes(sample.id.encode() + b"-D\n" + sample.body_bytes)
    look: Callable[[Place], list[Finding]] = check_module._check

    def arrives(place: Place) -> list[Finding]:
        for path in (header, data):
            (tmp_path / f"1xV9D4-0007Yr-05{path.name[-2:]}").write_bytes(path.read_bytes())
        return look(place)

    monkeypatch.setattr(check_module, "_check", arrives)
    assert run(check, str(tmp_path)).stdout == "1 checked, 0 wrong\n"


def test_check_finds_halves_and_what_exim_would_never_find(tmp_path: Path) -> None:
    sample = next(sample for sample in SAMPLES if sample.case == "plain" and sample.root.name == "spool-496")
    found: dict[str, list[tuple[str, str, str]]] = {}
    for place in (sample.id[5], "Z", "outside"):
        directory = tmp_path / place / "input" / ("" if place == "outside" else place)
        directory.mkdir(parents=True)
        (directory / f"{sample.id}-H").write_bytes(sample.header_data)
        (directory / f"{sample.id}-D").write_bytes(sample.id.encode() + b"-D\n" + sample.body_bytes)
        for alone in ("1xV9D4-0007Yr-05-D", "1xV9D4-0007Yr-05-J", "1xV9D4-0007Yr-05-D.tmp"):
            (directory / alone).touch()
        os.mkfifo(directory / "1xV9D5-0007Yr-05-D")
        result = run(check, str(tmp_path / place), "--json")
        assert result.exit_code == (place == "Z")
        document = json.loads(result.stdout)
        assert document["checked"] == 2
        found[place] = [(entry["file"], entry["rule"], entry["severity"]) for entry in document["findings"]]
    half = ("1xV9D4-0007Yr-05-D", "no-header-file", "note")
    assert found == {sample.id[5]: [half], "outside": [half], "Z": [(f"{sample.id}-H", "subdirectory", "error"), half]}


def test_a_message_that_cannot_be_read_is_named_and_the_rest_goes_on(hostile_directory: Path) -> None:
    result = run(show, str(hostile_directory), "--json")
    assert "1xV9D3-0007Yr-05-H:2:1: expected login, uid and gid" in result.stderr
    assert json.loads(result.stdout)["id"] == "1xV9D2-0007Yr-05"


def test_show_eml(tmp_path: Path) -> None:
    eml = tmp_path / "a.eml"
    eml.write_bytes(b"From: a@b.ex\r\nSubject: x\r\n\ty\r\n\r\nbody\r\n")
    document = json.loads(run(show, str(eml), "--json").stdout)
    assert [header["name"] for header in document["headers"]] == ["From", "Subject"]
    assert document["body_size"] == 5
    assert run(show, str(eml), "--raw").stdout_bytes == b"From: a@b.ex\nSubject: x\n\ty\n\nbody\n"
    eml.write_bytes(b"no header\n")
    assert run(show, str(eml)).exit_code == 1


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert run(show, str(tmp_path / "none")).exit_code == 2
    assert run(show, str(tmp_path), "--json", "--raw").exit_code == 2


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "     "), (1, "    1"), (1023, " 1023"), (1024, " 1.0K"), (10239, "10.0K"), (10240, "  10K"),
     (1048575, "1024K"), (1048576, " 1.0M"), (52428800, "  50M")],
)  # fmt: skip
def test_sizes_as_exim_prints_them(count: int, shown: str) -> None:
    assert terminal.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, " 0m"), (5400, "90m"), (5460, " 2h"), (72 * 3600, "72h"), (72 * 3600 + 1800, " 3d"), (40 * 86400, "40d")],
)
def test_ages_as_exim_prints_them(seconds: int, shown: str) -> None:
    assert terminal.age(seconds) == shown
