"""The arc-seal processor: when it seals, what it adds, and that others accept it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest

from respool.errors import ConfigError
from respool.processors.api import Defer, Proceed
from respool.processors.arc_seal import ArcSeal, ArcSealKey, Config
from respool.processors.auth import Auth
from respool.processors.auth import Config as AuthConfig
from respool.processors.authentication.arc_verify import ArcResult
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.seal_specification import parse_specification
from respool.processors.authentication.verification import verify_signatures
from respool.processors.edits import AddHeader
from respool.processors.results import Result
from respool.spool.message import Message

from .authentication.signed_mail import (
    BODY,
    FIELDS,
    NOW,
    KeyZone,
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

OURS = b"Authentication-Results: mx.example.net;\n\tspf=pass smtp.mailfrom=ann@example.org (a comment; kept)\n"


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    return write_key(tmp_path / "rsa.pem", pem(rsa_private_key()))


def write_key(path: Path, content: bytes, mode: int = 0o640) -> str:
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def config(path: str, **changes: Any) -> Config:
    values = {"domain": "sealer.example", "selector": "rsa", "key_file": path, **changes}
    return msgspec.convert(values, Config)


def applied(message: Message, verdict: object) -> Message:
    """message with the added headers at its top."""
    assert isinstance(verdict, Proceed)
    fields = [header.raw for header in message.sent_headers]
    for edit in verdict.edits:
        assert isinstance(edit, AddHeader)
        assert edit.at == "top"
        fields.insert(0, edit.header.raw)
    return spool_message(tuple(fields), b"".join(message.body.chunks()))


def arc_of(message: Message, resolver: KeyZone) -> ArcResult:
    return verify_signatures(AuthenticatedMessage.from_message(message), resolver, now=NOW)[1]


def test_seals_on_top_in_order_and_verifies_here_and_in_dkimpy(key_file: str) -> None:
    message = spool_message((OURS, *FIELDS))
    resolver = zone()
    sealed = applied(message, ArcSeal(config(key_file)).process(message, context(resolver)))
    names = [header.name for header in sealed.sent_headers[:4]]
    assert names == [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"Authentication-Results"]
    assert all(len(line) <= 78 for header in sealed.sent_headers[:3] for line in header.raw.split(b"\n"))
    assert b"(a comment; kept)" in sealed.sent_headers[2].raw.replace(b"\n", b"")
    assert b"arc=none smtp.remote-ip=192.0.2.1" in sealed.sent_headers[2].raw
    assert b" t=%d" % NOW in sealed.sent_headers[0].raw
    result = arc_of(sealed, resolver)
    assert (result.result, result.instance, result.oldest_pass) == (Result.PASS, 1, 0)
    assert result.domains == ("sealer.example",)
    cv, sets, reason = dkimpy.arc_verify(wire(sealed), dnsfunc=dkimpy_lookup(resolver))
    assert cv == b"pass", (sets, reason)


def test_five_sealings_chain_up(key_file: str) -> None:
    resolver = zone()
    message = spool_message((OURS, *FIELDS))
    processor = ArcSeal(config(key_file, expire_seconds=3600))
    for instance in range(1, 6):
        message = applied(message, processor.process(message, context(resolver)))
        result = arc_of(message, resolver)
        assert (result.result, result.instance, result.oldest_pass) == (Result.PASS, instance, 0)
    assert b"x=%d" % (NOW + 3600) in message.sent_headers[1].raw


def test_cv_comes_from_the_verification_before(key_file: str) -> None:
    message = spool_message((OURS, *FIELDS))
    resolver = zone()
    processor = ArcSeal(config(key_file))
    sealed = applied(message, processor.process(message, context(resolver)))
    before = arc_of(sealed, resolver)
    changed = spool_message(tuple(header.raw for header in sealed.sent_headers), BODY + b"-- \nthe list\n")
    again = applied(changed, processor.process(changed, context(resolver, results=(before,))))
    assert b"cv=pass" in again.sent_headers[0].raw
    result = arc_of(again, resolver)
    assert (result.result, result.instance, result.oldest_pass) == (Result.PASS, 2, 2)
    # Without that result the chain is verified as it now stands, and has failed.
    alone = applied(changed, processor.process(changed, context(resolver)))
    assert b"cv=fail" in alone.sent_headers[0].raw
    # A chain that ends in cv=fail gets no further set.
    verdict = processor.process(alone, context(resolver))
    assert isinstance(verdict, Proceed)
    assert not verdict.edits
    assert "failed before" in verdict.reason


@pytest.mark.parametrize("verified_before", [False, True])
def test_a_chain_that_expires_in_the_queue_is_sealed_as_it_came(key_file: str, *, verified_before: bool) -> None:
    resolver = zone()
    processor = ArcSeal(config(key_file, expire_seconds=60))
    message = spool_message((OURS, *FIELDS))
    message = applied(message, processor.process(message, context(resolver)))
    later = msgspec.structs.replace(context(resolver), now=NOW + 9999.0)
    if verified_before:
        verdict = Auth(AuthConfig(dmarc="off", spf_variable="")).process(message, later)
        assert isinstance(verdict, Proceed)
        later = msgspec.structs.replace(later, results=verdict.results)
    sealed = applied(message, processor.process(message, later))
    assert b"cv=pass" in sealed.sent_headers[0].raw
    assert b"t=%d" % (NOW + 9999) in sealed.sent_headers[0].raw


def test_no_results_of_ours_no_seal(key_file: str) -> None:
    foreign = OURS.replace(b"mx.example.net", b"mx.example.net.attacker.example")
    message = spool_message((foreign, *FIELDS))
    verdict = ArcSeal(config(key_file)).process(message, context(zone()))
    assert isinstance(verdict, Proceed)
    assert not verdict.edits
    assert verdict.reason == "not sealed: no Authentication-Results of mx.example.net"


def test_results_that_are_not_about_these_sets_are_not_used(key_file: str) -> None:
    message = spool_message((OURS, *FIELDS))
    stale = ArcResult(result=Result.PASS, instance=3)
    verdict = ArcSeal(config(key_file)).process(message, context(zone(), results=(stale,)))
    assert isinstance(verdict, Proceed)
    assert not verdict.edits


def test_dns_trouble_defers_before_it_is_sealed_as_a_failure(key_file: str) -> None:
    message = spool_message((OURS, *FIELDS))
    processor = ArcSeal(config(key_file, dns_attempts=2))
    sealed = applied(message, processor.process(message, context(zone())))
    down = KeyZone({}, broken=("rsa._domainkey.sealer.example",))
    for attempt in (1, 2):
        assert isinstance(processor.process(sealed, context(down, attempt=attempt)), Defer)
    verdict = processor.process(sealed, context(down, attempt=3))
    assert b"cv=fail" in applied(sealed, verdict).sent_headers[0].raw


@pytest.mark.parametrize(
    ("named", "recipient"),
    [
        ("Lists.example", "x@lists.example"),
        ("lists.example", "x@LISTS.example"),
        ("bücher.example", "x@BÜCHER.example"),
        ("xn--bcher-kva.example", "x@bücher.example"),
        ("bücher.example", "x@xn--bcher-kva.example"),
    ],
)
def test_the_key_is_chosen_by_recipient_domain(key_file: str, tmp_path: Path, named: str, recipient: str) -> None:
    other = ArcSealKey(
        recipient_domains=(named,),
        domain="example.org",
        selector="ed",
        key_file=write_key(tmp_path / "ed.pem", pem(ed25519_private_key())),
    )
    processor = ArcSeal(config(key_file, keys=[msgspec.to_builtins(other)]))
    message = spool_message((OURS, *FIELDS), recipients=(b"x@[192.0.2.1]", recipient.encode()))
    sealed = applied(message, processor.process(message, context(zone())))
    assert b"a=ed25519-sha256;" in sealed.sent_headers[0].raw
    assert arc_of(sealed, zone()).domains == ("example.org",)
    usual = spool_message((OURS, *FIELDS))
    assert b"d=sealer.example" in applied(usual, processor.process(usual, context(zone()))).sent_headers[0].raw


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"domain": "localhost"}, "domain"),
        ({"domain": "a.example; b=x"}, "domain"),
        ({"selector": ""}, "selector"),
        ({"sign_headers": ("From", "ARC-Seal")}, "arc-seal"),
        ({"sign_headers": ("From:To",)}, "header field name"),
        ({"key_file": "/nonexistent/key"}, "No such file"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(key_file: str, changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        ArcSeal(config(key_file, **changes))


def test_a_recipient_domain_that_is_none_is_refused(key_file: str) -> None:
    keys = [{"recipient_domains": ["a..example"], "domain": "example.org", "selector": "s", "key_file": key_file}]
    with pytest.raises(ConfigError, match=r"'a\.\.example' is not a domain") as caught:
        ArcSeal(config(key_file, keys=keys))
    assert caught.value.key == "keys[0].recipient_domains"


@pytest.mark.parametrize("mode", [0o644, 0o642, 0o660, 0o641])
def test_a_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_key(tmp_path / "open.pem", pem(rsa_private_key()), mode)
    with pytest.raises(ConfigError, match="lets others use it"):
        ArcSeal(config(path))


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a private key"):
        ArcSeal(config(write_key(tmp_path / "x.pem", b"not a key")))
    with pytest.raises(ConfigError, match="not a regular file"):
        ArcSeal(config(str(tmp_path)))
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        ArcSeal(config(str(tmp_path / "fifo")))


def sealing_table(directory: Path, lines: dict[bytes, bytes]) -> str:
    path = str(directory / "seal.mdb")
    environment = lmdb.open(path, subdir=False, map_size=1 << 20)
    with environment.begin(write=True) as transaction:
        for key, value in lines.items():
            transaction.put(key, value)
    environment.close()
    return f"partial0-lmdb*;{path}"


def ams_of(message: Message, verdict: object) -> bytes:
    return AuthenticatedMessage.from_message(applied(message, verdict)).named(b"arc-message-signature")[0].value


def test_a_table_chooses_the_key_by_recipient_domain(key_file: str, tmp_path: Path) -> None:
    other = write_key(tmp_path / "ed.pem", pem(ed25519_private_key()))
    table = sealing_table(
        tmp_path,
        {
            b"example.net": b"tenant.example : ed : %b : expire=+60" % other.encode(),
            b"*.example.com": b"nonsense",
            b"xn--bcher-kva.example": b"books.example : ed : %b" % other.encode(),
        },
    )
    processor = ArcSeal(config(key_file, key_table=table))
    message = spool_message((OURS, *FIELDS))
    value = ams_of(message, processor.process(message, context(zone())))
    assert b"d=tenant.example" in value
    assert b"s=ed;" in value
    assert b"a=ed25519-sha256" in value
    assert b"x=%d" % (NOW + 60) in value
    books = spool_message((OURS, *FIELDS), recipients=("bob@bücher.example".encode(),))
    assert b"d=books.example" in ams_of(books, processor.process(books, context(zone())))
    elsewhere = spool_message((OURS, *FIELDS), recipients=(b"bob@elsewhere.example",))
    assert b"d=sealer.example" in ams_of(elsewhere, processor.process(elsewhere, context(zone())))
    broken = spool_message((OURS, *FIELDS), recipients=(b"bob@lists.example.com",))
    verdict = processor.process(broken, context(zone()))
    assert isinstance(verdict, Defer)
    assert "nonsense" in verdict.reason


def test_a_key_that_the_table_names_is_read_anew_when_its_file_changes(key_file: str, tmp_path: Path) -> None:
    path = tmp_path / "rotating.pem"
    write_key(path, pem(rsa_private_key()))
    table = sealing_table(tmp_path, {b"example.net": b"tenant.example:s:%b" % str(path).encode()})
    processor = ArcSeal(config(key_file, key_table=table))
    message = spool_message((OURS, *FIELDS))
    assert b"a=rsa-sha256" in ams_of(message, processor.process(message, context(zone())))
    new = tmp_path / "new.pem"
    write_key(new, pem(ed25519_private_key()))
    new.rename(path)
    assert b"a=ed25519-sha256" in ams_of(message, processor.process(message, context(zone())))
    path.unlink()
    assert isinstance(processor.process(message, context(zone())), Defer)


@pytest.mark.parametrize(
    ("options", "expiry"),
    [
        ("timestamps", None),
        ("timestamps, expire", NOW + 30 * 86400),
        ("expire=+3600", NOW + 3600),
        ("expire=+0", NOW + 30 * 86400),
        (f"expire={NOW + 5}", NOW + 5),
    ],
)
def test_exims_option_words(key_file: str, options: str, expiry: int | None) -> None:
    message = spool_message((OURS, *FIELDS))
    value = ams_of(message, ArcSeal(config(key_file, options=options)).process(message, context(zone())))
    assert b"t=%d" % NOW in value
    assert (b"x=%d" % expiry in value) if expiry else (b"x=" not in value)


def test_an_expiry_in_the_past_makes_no_seal(key_file: str) -> None:
    message = spool_message((OURS, *FIELDS))
    verdict = ArcSeal(config(key_file, options="expire=1000")).process(message, context(zone()))
    assert isinstance(verdict, Proceed)
    assert not verdict.edits
    assert verdict.reason == "not sealed: expire= is in the past"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("options", "expires"),
        ("options", "expire="),
        ("options", "expire=+x"),
        ("options", "timestamp"),
        ("key_table", "/etc/mail/seal.mdb"),
        ("key_table", "lmdb;/nonexistent/seal.mdb"),
    ],
)
def test_bad_options_and_tables_are_refused(key_file: str, key: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ArcSeal(config(key_file, **{key: text}))
    assert caught.value.key == key


@pytest.mark.parametrize(
    "text",
    ["", "a.example:s", "a.example:s:relative.pem", "a:s:/k", "a.example:s s:/k", "a.example:s:/k:expired", ":::"],
)
def test_bad_specifications_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_specification(text)
