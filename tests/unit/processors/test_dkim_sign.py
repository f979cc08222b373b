"""The dkim-sign processor, with dkimpy and Mail::DKIM as judges of what it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from respool.errors import ConfigError
from respool.processors.api import Proceed
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


@pytest.mark.parametrize("identity", ["ann@example.com", "example.org", "@badexample.org"])
def test_an_identity_outside_the_domain_is_refused(keys: list[dict[str, Any]], identity: str) -> None:
    with pytest.raises(ConfigError, match="not within"):
        processor([{**keys[0], "identity": identity}])


def test_no_keys_is_no_configuration() -> None:
    with pytest.raises(msgspec.ValidationError):
        processor([])
