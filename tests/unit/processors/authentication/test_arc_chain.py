"""ARC beyond the public suite: limits, times, keys, DNS, and what RFC 8617 forbids a sealer."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from respool.processors.authentication.arc_chain import MAX_INSTANCE
from respool.processors.authentication.arc_seal import NotSealed, Sealer, seal
from respool.processors.authentication.arc_verify import ArcResult
from respool.processors.authentication.keys import public_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.verification import verify_signatures
from respool.processors.results import Property, Result
from respool.spool.body import BytesBody

from .signed_mail import BODY, FIELDS, NOW, KeyZone, ed25519_key, ed25519_private_key, rsa_private_key, zone

ED25519 = Sealer(authserv_id="mx.example.net", domain="sealer.example", selector="ed", key=ed25519_key())
OURS = b"Authentication-Results: mx.example.net; spf=pass smtp.mailfrom=ann@example.org\n"


def verify(message: AuthenticatedMessage, resolver: KeyZone | None = None, *, address: str = "") -> ArcResult:
    return verify_signatures(message, resolver or zone(), now=NOW, client_address=address)[1]


def add_set(
    message: AuthenticatedMessage, sealer: Sealer = ED25519, *, state: ArcResult | None = None
) -> AuthenticatedMessage:
    sealed = seal(message, state or verify(message), sealer, now=NOW)
    assert not isinstance(sealed, NotSealed), sealed
    return AuthenticatedMessage((*[header.raw for header in sealed.headers], *message.fields), message.body)


def plain() -> AuthenticatedMessage:
    return AuthenticatedMessage((OURS, *FIELDS), BytesBody(BODY))


def chain(length: int) -> AuthenticatedMessage:
    message = plain()
    for _ in range(length):
        message = add_set(message)
    return message


def edited(message: AuthenticatedMessage, index: int, old: bytes, new: bytes) -> AuthenticatedMessage:
    fields = list(message.fields)
    assert old in fields[index]
    fields[index] = fields[index].replace(old, new)
    return AuthenticatedMessage(fields, message.body)


def test_a_pass_has_all_that_others_ask_for() -> None:
    result = verify(chain(2), address="192.0.2.7")
    assert (result.result, result.reason, result.instance, result.oldest_pass) == (Result.PASS, "", 2, 0)
    assert result.domains == ("sealer.example", "sealer.example")
    assert result.properties == (
        Property("header", "s", "ed"),
        Property("header", "oldest-pass", "0"),
        Property("arc", "oldest-pass", "0"),
        Property("smtp", "remote-ip", "192.0.2.7"),
    )


def test_fifty_sets_and_no_more() -> None:
    full = chain(MAX_INSTANCE)
    result = verify(full)
    assert (result.result, result.instance) == (Result.PASS, MAX_INSTANCE)
    assert seal(full, result, ED25519, now=NOW) == NotSealed("the chain is full, with 50 sets")
    beyond = edited(full, 0, b" i=50;", b" i=51;")
    assert verify(beyond).reason == "collecting headers: inserting AS: overlarge instance number"


def test_oldest_pass() -> None:
    first = chain(2)
    changed = AuthenticatedMessage(first.fields, BytesBody(BODY + b"-- \nfooter\n"))
    third = add_set(changed, state=verify(first))
    assert (verify(third).result, verify(third).oldest_pass) == (Result.PASS, 3)
    assert (verify(add_set(third)).result, verify(add_set(third)).oldest_pass) == (Result.PASS, 3)


@pytest.mark.parametrize(
    ("index", "old", "new", "reason"),
    [
        # newest set on top: seal, message signature, results; then those of i=1
        (0, b"cv=pass", b"cv=none", "seal cv state"),
        (0, b"cv=pass", b"cv=PASS", "seal cv state"),
        (0, b"cv=pass", b"cv=fail", "i=2 (cv)"),
        (3, b"cv=none", b"cv=", "i=1 (cv)"),
        (3, b"cv=none", b"cv=pass", "seal cv state"),
        (0, b"i=2", b"i=1", "collecting headers: inserting AS: dup hdr"),
        (0, b"i=2", b"i=3", "i=3 (missing header)"),
        (0, b"i=2", b"i=0", "collecting headers: inserting AS: instance find"),
        (0, b"i=2", b"i=two", "collecting headers: inserting AS: instance find"),
        (1, b"i=2", b"i=2; i=2", "collecting headers: inserting AMS: line parse: i tag dup"),
        (2, b"i=2;", b"i=2", "collecting headers: inserting AAR: instance find"),
        (3, b"ARC-Seal", b"X-Seal", "i=1 (missing header)"),
        (0, b"d=sealer", b"h=from; d=sealer", "seal: h tag in a seal"),
        (0, b"a=ed25519-sha256", b"a=rsa-sha1", "seal unknown algorithm"),
        (0, b"t=%d" % NOW, b"t=%d" % (NOW + 9999), "seal signed in the future"),
        (0, b"s=ed", b"s=gone", "pubkey dns lookup fail (AS)"),
        (0, b"t=%d" % NOW, b"t=%d" % (NOW - 1), "seal sigverify error"),
        (2, b"spf=pass", b"spf=fail", "seal sigverify error"),
        (5, b"spf=pass", b"spf=fail", "seal sigverify error"),
        (1, b"s=ed", b"s=gone", "pubkey dns lookup fail (AMS)"),
        (1, b"t=%d" % NOW, b"t=%d" % (NOW - 1), "AMS sig nonverify"),
        (1, b"t=%d" % NOW, b"t=%d" % (NOW + 9999), "AMS signed in the future"),
        (1, b"t=%d" % NOW, b"t=%d; x=%d" % (NOW - 20, NOW - 10), "AMS signature expired"),
        (1, b" h=", b" h=ARC-Seal:", "AMS signs a seal"),
        (1, b"bh=", b"xbh=", "required tag missing"),
        (-1, b"1@example.org", b"2@example.org", "AMS sig nonverify"),
    ],
)
def test_a_chain_that_was_tampered_with(index: int, old: bytes, new: bytes, reason: str) -> None:
    result = verify(edited(chain(2), index, old, new))
    assert (result.result, result.reason, result.oldest_pass) == (Result.FAIL, reason, None)
    assert not result.temporary


def test_a_changed_body() -> None:
    message = chain(1)
    result = verify(AuthenticatedMessage(message.fields, BytesBody(BODY + b"more\n")))
    assert result.reason == "AMS body hash miscompare"


def test_gaps_leave_empty_domains() -> None:
    message = chain(3)
    without_second = AuthenticatedMessage([*message.fields[:3], *message.fields[6:]], message.body)
    result = verify(without_second)
    assert (result.reason, result.domains) == ("i=1 (sequence; expected 2)", ("sealer.example", "", "sealer.example"))
    newest_alone = AuthenticatedMessage([*message.fields[3:6], *message.fields[9:]], message.body)
    assert verify(newest_alone).reason == "(sequence; expected i=1)"
    assert verify(newest_alone).domains == ("", "sealer.example")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("ed._domainkey.sealer.example", "pubkey dns lookup fail (AMS): DNS: "),
        ("rsa._domainkey.sealer.example", "pubkey dns lookup fail (AS): DNS: "),
    ],
)
def test_dns_trouble_is_a_failure_that_knows_it_is_temporary(broken: str, reason: str) -> None:
    working = zone()
    message = edited(chain(1), 0, b"s=ed", b"s=rsa") if broken.startswith("rsa") else chain(1)
    result = verify(message, KeyZone(working.records, broken=(broken,)))
    assert (result.result, result.temporary) == (Result.FAIL, True)
    assert result.reason.startswith(reason)


def test_weak_and_unsuitable_keys() -> None:
    records = {
        "ed._domainkey.sealer.example": b"s=tlsrpt; " + public_record(ed25519_private_key()).removeprefix(b"v=DKIM1; ")
    }
    assert "key is not for email" in verify(chain(1), KeyZone(records)).reason
    records = {"ed._domainkey.sealer.example": public_record(rsa_private_key())}
    assert "inappropriate key algorithm" in verify(chain(1), KeyZone(records)).reason


def test_a_failed_chain_is_sealed_once_and_the_seal_covers_only_itself() -> None:
    message = edited(chain(2), -1, b"1@example.org", b"2@example.org")
    failed = add_set(message)
    assert b"cv=fail" in failed.fields[0]
    result = verify(failed)
    assert (result.result, result.reason, result.terminated) == (Result.FAIL, "i=3 (cv)", True)
    assert seal(failed, result, ED25519, now=NOW) == NotSealed("the chain has failed before")
    # What is below may change without breaking that seal: it covers only its own set.
    assert (
        add_set(edited(message, 3, b"cv=none", b"cv=pass"), state=replace(verify(message))).fields[0]
        == failed.fields[0]
    )


def test_all_results_of_ours_and_nobody_elses_are_sealed() -> None:
    fields = (
        b"Authentication-Results: mx.example.net.evil.example; dmarc=pass (forged)\n",
        b'authentication-results: (c;c) "MX.example.net" 1; spf=pass (a;b\n (n) \\) c) reason="x; y"; ; none\n',
        b"Authentication-Results: mx.example.net 2; dkim=pass (version unknown)\n",
        b"Authentication-Results: other.example; dkim=pass\n",
        b"Authentication-Results: mx.example.net; dkim=fail (unclosed; dmarc=pass\n",
        b"Authentication-Results: mx.example.net\n",
        b"Authentication-Results: mx.example.net; dkim=pass header.d=example.org\n",
    )
    sealed = add_set(AuthenticatedMessage((*fields, *FIELDS), BytesBody(BODY)))
    assert b" ".join(sealed.fields[2].split()) == (
        b"ARC-Authentication-Results: i=1; mx.example.net; "
        b'spf=pass (a;b (n) \\) c) reason="x; y"; dkim=pass header.d=example.org; arc=none'
    )
    assert verify(sealed).result is Result.PASS


def test_no_results_of_ours() -> None:
    message = AuthenticatedMessage((OURS.replace(b"mx.", b"mx2."), *FIELDS), BytesBody(BODY))
    assert seal(message, verify(message), ED25519, now=NOW) == NotSealed("no Authentication-Results of mx.example.net")


def test_long_results_are_folded_and_verify() -> None:
    long = OURS.rstrip(b"\n") + b" (" + b"word " * 400 + b"end) x." + b"y" * 700 + b"=z\n"
    message = AuthenticatedMessage((long, *FIELDS), BytesBody(BODY))
    sealed = add_set(message, replace(ED25519, headers=(*ED25519.headers, *[f"X-Field-{n}" for n in range(90)])))
    assert verify(sealed).result is Result.PASS
    assert max(map(len, sealed.fields[2].split(b"\n"))) < 730


def test_dkim_signatures_are_covered() -> None:
    signature = b"DKIM-Signature: v=1; a=rsa-sha256\n"
    sealed = add_set(AuthenticatedMessage((OURS, signature, *FIELDS), BytesBody(BODY)))
    assert b"h=dkim-signature:from:" in sealed.fields[1]
    assert verify(edited(sealed, 4, b"v=1", b"v=2")).reason == "AMS sig nonverify"
    for name in (b"arc-", b"authentication-results", b"received"):
        assert name not in sealed.fields[1].partition(b"h=")[2].partition(b";")[0]


def test_results_that_would_break_or_bloat_the_header_section_are_not_sealed() -> None:
    for text in (b"spf=pass (\0)", b"spf=pass (" + b"x" * 40_000 + b")"):
        message = AuthenticatedMessage((OURS[:-1] + b"; " + text + b"\n", *FIELDS), BytesBody(BODY))
        assert isinstance(seal(message, verify(message), ED25519, now=NOW), NotSealed)
    message = AuthenticatedMessage((OURS[:-1] + b"; dkim=pass (\r\v)\n", *FIELDS), BytesBody(BODY))
    assert verify(add_set(message)).result is Result.PASS


def test_a_field_repeated_without_end_does_not_swell_the_signature() -> None:
    message = AuthenticatedMessage((OURS, *FIELDS, *[b"List-Id: x\n"] * 5000), BytesBody(BODY))
    sealed = add_set(message)
    assert len(sealed.fields[1]) < 2000
    assert verify(sealed).result is Result.PASS


def test_a_sealer_in_u_labels_is_known_by_its_a_labels() -> None:
    sealer = replace(ED25519, domain="bücher.example", selector="größe")
    resolver = KeyZone({"xn--gre-6ka8i._domainkey.xn--bcher-kva.example": public_record(ed25519_private_key())})
    result = verify(add_set(plain(), sealer), resolver)
    assert (result.result, result.domains) == (Result.PASS, ("xn--bcher-kva.example",))
    assert [(each.seal_domain, each.seal_selector) for each in result.sets] == [
        ("xn--bcher-kva.example", "xn--gre-6ka8i")
    ]
    assert Property("header", "s", "xn--gre-6ka8i") in result.properties
