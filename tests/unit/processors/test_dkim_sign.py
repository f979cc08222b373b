"""The dkim-sign processor, with dkimpy and Mail::DKIM as judges of what it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from respool.errors import ConfigError
from respool.processors.api import Defer, Proceed
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.verification import verify_signatures
from respool.processors.dkim_sign import Config, DkimSign
from respool.processors.edits import AddHeader
from respool.processors.results import Result
from respool.spool.message import Message

from .authentication.signed_mail import (
    BODY,
    FIELDS,
    NOW,
    context,
    dkimpy,
    dkimpy_lookup,
    ed25519_private_key,
    pem,
    rsa_private_key,
    spool_message,
    wire,
    zone,
)
from .table_kit import make_table


@pytest.fixture
def keys(tmp_path: Path) -> list[dict[str, Any]]:
    """An RSA and an Ed25519 key for example.org."""
    described = []
    for selector, key in (("rsa", rsa_private_key()), ("ed", ed25519_private_key())):
        path = tmp_path / f"{selector}.pem"
        path.write_bytes(pem(key))
        path.chmod(0o600)
        described.append({"domain": "example.org", "selector": selector, "key_file": str(path)})
    return described


def processor(keys: list[dict[str, Any]], **changes: Any) -> DkimSign:
    return DkimSign(msgspec.convert({"keys": keys, **changes}, Config))


def signed(signer: DkimSign, message: Message) -> Message:
    verdict = signer.process(message, context(zone()))
    assert isinstance(verdict, Proceed)
    fields = [header.raw for header in message.sent_headers]
    for edit in verdict.edits:
        assert isinstance(edit, AddHeader)
        fields.insert(0, edit.header.raw)
    return spool_message(tuple(fields), b"".join(message.body.chunks()))


@pytest.mark.parametrize("header", ["relaxed", "simple"])
@pytest.mark.parametrize("body", ["relaxed", "simple"])
def test_rsa_and_ed25519_side_by_side(keys: list[dict[str, Any]], header: str, body: str) -> None:
    keys[0]["identity"] = "ann b=c;d@mail.example.org"
    signer = processor(keys, header_canonicalization=header, body_canonicalization=body, expire_seconds=60)
    message = signed(signer, spool_message())
    results, _ = verify_signatures(AuthenticatedMessage.from_message(message), zone(), now=NOW)
    assert [(result.result, result.algorithm, result.selector) for result in results] == [
        (Result.PASS, "rsa-sha256", "rsa"),
        (Result.PASS, "ed25519-sha256", "ed"),
    ]
    assert results[0].identity == "ann b=c;d@mail.example.org"
    for header_field in message.sent_headers[:2]:
        assert all(len(line) <= 78 for line in header_field.raw.split(b"\n"))


@pytest.mark.parametrize("header", ["relaxed", "simple"])
@pytest.mark.parametrize("body", ["relaxed", "simple"])
def test_dkimpy_verifies_them(keys: list[dict[str, Any]], header: str, body: str) -> None:
    message = signed(processor(keys, header_canonicalization=header, body_canonicalization=body), spool_message())
    judge = dkimpy.DKIM(wire(message))
    for index in range(2):
        assert judge.verify(index, dnsfunc=dkimpy_lookup(zone()))


@pytest.mark.parametrize("name", [b"From", b"Subject", b"Cc", b"Content-Type"])
def test_an_oversigned_field_added_later_breaks_the_signature(keys: list[dict[str, Any]], name: bytes) -> None:
    message = signed(processor(keys), spool_message())
    fields = [header.raw for header in message.sent_headers]
    forged = spool_message((*fields[:2], name + b": forged\n", *fields[2:]))
    results, _ = verify_signatures(AuthenticatedMessage.from_message(forged), zone(), now=NOW)
    assert {result.result for result in results} == {Result.FAIL}


@pytest.mark.parametrize(
    ("author", "from_domains", "count"),
    [
        (b"From: Ann <ann@example.org>\n", [], 1),
        (b"From: Ann <ann@EXAMPLE.org>\n", [], 1),
        (b"From: Ann <ann@sub.example.org>\n", [], 0),
        (b"From: Ann <ann@sub.example.org>\n", [".example.org"], 1),
        (b"From: Ann <ann@example.org>\n", [".example.org"], 0),
        (b"From: Ann <ann@other.example>\n", ["other.example", "example.org"], 1),
        ("From: Ann <ann@bücher.example>\n".encode(), ["Bücher.example"], 1),
        (b"From: Ann <ann@a.xn--bcher-kva.example>\n", [".bücher.example"], 1),
        (b"From: ann@example.org, eve@evil.example\n", [], 0),
        (b"From: undisclosed:;\n", [], 0),
        (b"", [], 0),
    ],
)
def test_the_author_chooses_the_key(
    keys: list[dict[str, Any]], author: bytes, from_domains: list[str], count: int
) -> None:
    signer = processor([{**keys[0], "from_domains": from_domains}])
    fields = tuple(author if field.startswith(b"From") else field for field in FIELDS)
    verdict = signer.process(spool_message(tuple(filter(None, fields)), BODY), context(zone()))
    assert isinstance(verdict, Proceed)
    assert len(verdict.edits) == count
    assert bool(count) != verdict.reason.startswith("not signed")


@pytest.mark.parametrize("domain", ["", ".", "two words.example", "a@example.org", "*.example.org"])
def test_what_is_no_from_domain_is_refused(keys: list[dict[str, Any]], domain: str) -> None:
    with pytest.raises(ConfigError, match="not a domain") as caught:
        processor([{**keys[0], "from_domains": ["example.org", domain]}])
    assert caught.value.key == "keys[0].from_domains"


@pytest.mark.parametrize("identity", ["ann@example.com", "example.org", "@badexample.org"])
def test_an_identity_outside_the_domain_is_refused(keys: list[dict[str, Any]], identity: str) -> None:
    with pytest.raises(ConfigError, match="not within"):
        processor([{**keys[0], "identity": identity}])


def test_no_keys_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="neither keys nor key_table"):
        processor([])


def line(keys: list[dict[str, Any]], *numbers: int) -> str:
    return " ; ".join(f"example.org : {keys[number]['selector']}:{keys[number]['key_file']}" for number in numbers)


def selectors(signer: DkimSign, author: bytes) -> list[str]:
    fields = tuple(author if field.startswith(b"From") else field for field in FIELDS)
    message = signed(signer, spool_message(fields, BODY))
    results, _ = verify_signatures(AuthenticatedMessage.from_message(message), zone(), now=NOW)
    assert {result.result for result in results} <= {Result.PASS, Result.NONE}
    return [result.selector for result in results]


def test_a_table_chooses_the_keys_by_author_domain(keys: list[dict[str, Any]], tmp_path: Path) -> None:
    table = make_table(
        tmp_path / "dkim.mdb",
        {"example.org": line(keys, 1, 0), "*.example.org": line(keys, 1), "xn--bcher-kva.example": line(keys, 0)},
    )
    signer = processor([], key_table=f"partial-{table}")
    assert selectors(signer, b"From: Ann <ann@Example.org>\n") == ["ed", "rsa"]
    assert selectors(signer, b"From: Ann <ann@sub.example.org>\n") == ["ed"]
    assert selectors(signer, "From: Ann <ann@bücher.example>\n".encode()) == ["rsa"]
    assert selectors(signer, b"From: Ann <ann@other.example>\n") == [""]


def test_the_table_comes_before_the_keys_of_the_configuration(keys: list[dict[str, Any]], tmp_path: Path) -> None:
    table = make_table(tmp_path / "dkim.mdb", {"example.org": line(keys, 1)})
    signer = processor([{**keys[0], "from_domains": ["example.org", "other.example"]}], key_table=table)
    assert selectors(signer, b"From: Ann <ann@example.org>\n") == ["ed"]
    assert selectors(signer, b"From: Ann <ann@other.example>\n") == ["rsa"]


def test_a_key_that_the_table_names_is_read_anew_when_its_file_changes(
    keys: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "rotating.pem"
    path.symlink_to(keys[0]["key_file"])
    table = make_table(tmp_path / "dkim.mdb", {"example.org": f"example.org:rsa:{path}"})
    signer = processor([], key_table=table)
    assert b"a=rsa-sha256" in signed(signer, spool_message()).sent_headers[0].raw
    path.unlink()
    path.symlink_to(keys[1]["key_file"])
    assert b"a=ed25519-sha256" in signed(signer, spool_message()).sent_headers[0].raw
    path.unlink()
    verdict = signer.process(spool_message(), context(zone()))
    assert isinstance(verdict, Defer)
    assert verdict.reason == f"no key to sign with: private key {path}: No such file or directory"


@pytest.mark.parametrize(
    "text",
    ["", ";", "example.org:rsa", "example.org:rsa:relative.pem", "a b:rsa:/k", "example.org:rsa:/k:expire", "::"],
)
def test_a_line_that_is_no_key_defers(tmp_path: Path, text: str) -> None:
    signer = processor([], key_table=make_table(tmp_path / "dkim.mdb", {"example.org": text}))
    verdict = signer.process(spool_message(), context(zone()))
    assert isinstance(verdict, Defer)
    assert verdict.reason.startswith("no key to sign with: ")


@pytest.mark.parametrize("setting", ["sign_headers", "oversign_headers"])
def test_what_is_no_header_name_is_refused(tmp_path: Path, setting: str) -> None:
    table = make_table(tmp_path / "dkim.mdb", {})
    with pytest.raises(ConfigError, match="header field name"):
        processor([], key_table=table, **{setting: ["From:To"]})


@pytest.mark.parametrize("table", ["/etc/mail/dkim.mdb", "lmdb;/nonexistent/dkim.mdb"])
def test_a_table_that_cannot_be_read_is_refused(table: str) -> None:
    with pytest.raises(ConfigError) as caught:
        processor([], key_table=table)
    assert caught.value.key == "key_table"
