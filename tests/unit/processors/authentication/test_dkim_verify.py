"""DKIM verification: every outcome, each with the reason it is given."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from respool.processors.authentication.body_hash import SIGNING_REQUEST
from respool.processors.authentication.dkim_verify import MAX_SIGNATURES, DkimResult
from respool.processors.authentication.keys import SigningKey, public_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.verification import verify_signatures
from respool.processors.results import Property, Result
from respool.spool.body import BytesBody

from .signed_mail import FIELDS, NOW, KeyZone, ed25519_key, hand_signed, rsa_private_key, zone

VECTORS = Path(__file__).parent / "vectors"
RSA_NAME = "rsa._domainkey.example.org"


def verify(message: AuthenticatedMessage, resolver: KeyZone | None = None, *, minimum: int = 1024) -> list[DkimResult]:
    results, _ = verify_signatures(message, resolver or zone(), now=NOW, minimum_rsa_bits=minimum)
    return results


def rsa_record(changes: str) -> KeyZone:
    """The test key with other tags before ``p=``."""
    return KeyZone({RSA_NAME: changes.encode() + b"p=" + public_record(rsa_private_key()).partition(b"p=")[2]})


@pytest.mark.parametrize("vector", ["rfc6376-appendix-a", "rfc8463-appendix-a"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_examples_of_the_rfcs(vector: str, line_end: bytes) -> None:
    lines = (VECTORS / "keys.txt").read_bytes().splitlines()
    resolver = KeyZone({line.split(b" ", 1)[0].decode(): line.split(b" ", 1)[1] for line in lines})
    raw = (VECTORS / f"{vector}.eml").read_bytes()
    results = verify(AuthenticatedMessage.from_bytes(raw.replace(b"\n", line_end)), resolver)
    assert len(results) == (1 if vector.startswith("rfc6376") else 2)
    assert {result.result for result in results} == {Result.PASS}
    changed = raw.replace(b"dinner", b"supper").replace(b"\n", line_end)
    failed = verify(AuthenticatedMessage.from_bytes(changed), resolver)
    assert {(result.result, result.reason) for result in failed} == {(Result.FAIL, "signature did not verify")}


def test_no_signature() -> None:
    assert verify(AuthenticatedMessage(FIELDS, BytesBody(b""))) == [DkimResult(result=Result.NONE)]


@pytest.mark.parametrize("key", [None, ed25519_key()], ids=["rsa", "ed25519"])
def test_a_pass_says_what_passed(key: SigningKey | None) -> None:
    (result,) = verify(hand_signed({"i": "@mail.example.org"}, key=key))
    assert (result.result, result.reason) == (Result.PASS, "")
    algorithm, selector = ("ed25519-sha256", "ed") if key else ("rsa-sha256", "rsa")
    assert result.properties == (
        Property("header", "d", "example.org"),
        Property("header", "i", "@mail.example.org"),
        Property("header", "s", selector),
        Property("header", "a", algorithm),
        Property("header", "b", result.b_prefix),
    )
    assert len(result.b_prefix) == 8


@pytest.mark.parametrize(
    ("changes", "result", "reason"),
    [
        # RFC 6376 6.1.1: no usable syntax
        ({"v": "2"}, Result.NEUTRAL, "not version 1"),
        ({"v": None}, Result.NEUTRAL, "required tag missing"),
        ({"a": None}, Result.NEUTRAL, "required tag missing"),
        ({"h": None}, Result.NEUTRAL, "required tag missing"),
        ({"bh": None}, Result.NEUTRAL, "required tag missing"),
        ({"bh": "not base64"}, Result.NEUTRAL, "bh= is not base64"),
        ({"c": "relaxed/"}, Result.NEUTRAL, "canonicalization"),
        ({"c": "nowsp"}, Result.NEUTRAL, "canonicalization"),
        ({"d": "org"}, Result.NEUTRAL, "d= is not a domain name"),
        ({"d": "a..org"}, Result.NEUTRAL, "d= is not a domain name"),
        ({"d": "-a.org"}, Result.NEUTRAL, "d= is not a domain name"),
        ({"d": "a." * 130 + "org"}, Result.NEUTRAL, "d= is not a domain name"),
        ({"s": ""}, Result.NEUTRAL, "s= is not a selector"),
        ({"s": "a b"}, Result.NEUTRAL, "s= is not a selector"),
        ({"i": "example.org"}, Result.NEUTRAL, "i= is not an identity"),
        ({"i": "=FF@example.org"}, Result.NEUTRAL, "i= is not UTF-8"),
        ({"l": "-1"}, Result.NEUTRAL, "l= is not a number"),
        ({"l": "9" * 77}, Result.NEUTRAL, "l= is not a number"),
        ({"t": "soon"}, Result.NEUTRAL, "t= is not a time"),
        ({"t": "20", "x": "10"}, Result.NEUTRAL, "x= is not after t="),
        ({"q": "http"}, Result.NEUTRAL, "query method"),
        ({"1z": "bad"}, Result.NEUTRAL, "bad tag name"),
        ({" v": "1"}, Result.NEUTRAL, "v tag dup"),
        # refused whatever the message says
        ({"a": "rsa-sha1"}, Result.PERMERROR, "historic"),
        ({"a": "rsa-md5"}, Result.PERMERROR, "unknown algorithm"),
        ({"a": "ed25519-sha256"}, Result.PERMERROR, "inappropriate key algorithm"),
        ({"h": "to:subject"}, Result.PERMERROR, "From field not signed"),
        ({"h": "xfrom:from2"}, Result.PERMERROR, "From field not signed"),
        ({"i": "@example.com"}, Result.PERMERROR, "domain mismatch"),
        ({"i": "@badexample.org"}, Result.PERMERROR, "domain mismatch"),
        ({"x": str(NOW - 1)}, Result.PERMERROR, "expired"),
        ({"t": str(NOW + 3600)}, Result.PERMERROR, "future"),
        ({"s": "none"}, Result.PERMERROR, "no key for signature"),
        # looked at and wrong
        ({"bh": base64.b64encode(bytes(32)).decode()}, Result.FAIL, "body hash did not verify"),
        ({"bh": "AAAA"}, Result.FAIL, "body hash did not verify"),
        ({"l": "9999"}, Result.PERMERROR, "l= is larger than the body"),
        # fine
        ({"q": "http : dns/txt"}, Result.PASS, ""),
        ({"x": str(NOW + 1), "t": str(NOW)}, Result.PASS, ""),
        ({"t": str(NOW + 60)}, Result.PASS, ""),
        ({"h": "FROM : To\n\t:x-absent :Subject"}, Result.PASS, ""),
        ({"z": "From:ann=40example.org", "unknown": ""}, Result.PASS, ""),
        ({"i": "a=20b=3B@mail.Example.ORG"}, Result.PASS, ""),
        ({"d": "Example.ORG"}, Result.PASS, ""),
        ({"l": "8"}, Result.PASS, ""),
    ],
)
def test_every_outcome(changes: dict[str, str | None], result: Result, reason: str) -> None:
    one_line = tuple(field.replace(b"\n\t", b" ").replace(b"\n  ", b" ") for field in FIELDS)
    (found,) = verify(hand_signed(changes, fields=one_line))
    assert (found.result, reason in found.reason, bool(found.reason)) == (result, True, bool(reason)), found.reason


@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        ("", Result.PASS, ""),
        ("v=DKIM1; ", Result.PASS, ""),
        ("v=DKIM1; n=a note; g=*; x=y; ", Result.PASS, ""),
        ("h=sha1:sha256; s=email; t=y; ", Result.PASS, "key in test mode"),
        ("v=DKIM2; ", Result.PERMERROR, "not a DKIM1 key record"),
        ("k=rsa; v=DKIM1; ", Result.PERMERROR, "not a DKIM1 key record"),
        ("h=sha1; ", Result.PERMERROR, "inappropriate hash algorithm"),
        ("s=tlsrpt; ", Result.PERMERROR, "key is not for email"),
        ("k=dsa; ", Result.PERMERROR, "unknown key type"),
        ("k=ed25519; ", Result.PERMERROR, "unusable public key"),
        ("v=DKIM1;; ", Result.PERMERROR, "key record syntax error"),
        ("a b=c; ", Result.PERMERROR, "key record syntax error"),
    ],
)
def test_key_records(record: str, result: Result, reason: str) -> None:
    (found,) = verify(hand_signed(), rsa_record(record))
    assert (found.result, reason in found.reason) == (result, True), found.reason
    assert found.testing == ("t=y" in record)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"v=DKIM1; p=", "key revoked"),
        (b"v=DKIM1; p= ", "key revoked"),
        (b"v=DKIM1", "no p= in the key record"),
        (b"", "key record syntax error"),
        (b"v=DKIM1; p=!!!!", "unusable public key in p="),
        (b"v=DKIM1; p=AAAA", "unusable public key in p="),
        (b"v=DKIM1; k=ed25519; p=AAAA", "unusable public key in p="),
        (b"v=DKIM1; p=" + b"A" * 9000, "the key record is too long"),
        (b"\xff\x00;=;=", "key record syntax error"),
    ],
)
def test_hostile_and_revoked_keys(record: bytes, reason: str) -> None:
    (found,) = verify(hand_signed(), KeyZone({RSA_NAME: record}))
    assert (found.result, found.reason) == (Result.PERMERROR, reason)


@pytest.mark.parametrize("domain", ["bücher.example", "BÜCHER.Example", "xn--bcher-kva.example"])
@pytest.mark.parametrize(
    "identity", [None, "@post.bücher.example", "@POST.XN--BCHER-KVA.example", "käte@BÜCHER.example"]
)
def test_u_labels_and_a_labels_are_one_name(domain: str, identity: str | None) -> None:
    # RFC 8616 section 5: each of the three names may be written either way.
    record = public_record(rsa_private_key())
    resolver = KeyZone({"xn--gre-6ka8i._domainkey.xn--bcher-kva.example": record})
    (found,) = verify(hand_signed({"d": domain, "s": "größe", "i": identity}), resolver)
    assert (found.result, found.reason) == (Result.PASS, "")
    # Authentication-Results is ASCII: in U-labels the names would be lost there.
    assert (found.domain, found.selector) == ("xn--bcher-kva.example", "xn--gre-6ka8i")
    assert found.identity.rpartition("@")[2] in {"xn--bcher-kva.example", "post.xn--bcher-kva.example"}


@pytest.mark.parametrize("tag", ["d", "s", "i"])
def test_what_has_no_a_labels_is_no_name(tag: str) -> None:
    resolver = KeyZone({})
    (found,) = verify(hand_signed({tag: "@a／b.example" if tag == "i" else "a／b.example"}), resolver)
    assert (found.result, found.reason[:18]) == (Result.NEUTRAL, "signature syntax: ")
    assert not resolver.asked


@pytest.mark.parametrize(
    ("received", "now", "result"),
    [
        (NOW, NOW + 9999, Result.PASS),
        (NOW + 61, NOW + 9999, Result.PERMERROR),
        (None, NOW + 9999, Result.PERMERROR),
        (NOW + 9999, NOW, Result.PASS),  # a clock went back: nothing is received later than now
    ],
)
def test_what_expires_in_the_queue_has_not_expired(received: int | None, now: int, result: Result) -> None:
    message = hand_signed({"t": str(NOW), "x": str(NOW + 60)})
    (found,), _ = verify_signatures(message, zone(), now=now, received=received)
    assert found.result is result
    # What was signed here after it came, and waited, is not signed in the future.
    (found,), _ = verify_signatures(hand_signed({"t": str(NOW)}), zone(), now=NOW + 1, received=NOW - 9999)
    assert found.result is Result.PASS


def test_of_several_records_the_usable_one() -> None:
    good = public_record(rsa_private_key())
    (found,) = verify(hand_signed(), KeyZone({RSA_NAME: [b"v=spf1 -all", good]}))
    assert found.result is Result.PASS


def test_ed25519_keys_that_are_no_points() -> None:
    for key in (bytes(32), b"\xff" * 32, b"\x01" + bytes(31), bytes(31) + b"\x80"):
        record = b"k=ed25519; p=" + base64.b64encode(key)
        (found,) = verify(hand_signed(key=ed25519_key()), KeyZone({"ed._domainkey.example.org": record}))
        assert found.result in {Result.FAIL, Result.PERMERROR}


def test_dns_trouble_is_temporary() -> None:
    (found,) = verify(hand_signed(), KeyZone({}, broken=(RSA_NAME,)))
    assert found.result is Result.TEMPERROR
    assert "SERVFAIL" in found.reason


def test_weak_keys() -> None:
    # RFC 8301 3.2: below 1024 never; above it as configured.
    numbers = RSAPublicNumbers(e=65537, n=(1 << 767) + 9)
    weak = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (found,) = verify(hand_signed(), KeyZone({RSA_NAME: b"p=" + base64.b64encode(weak)}))
    assert (found.result, found.reason) == (Result.PERMERROR, "RSA key of 768 bits is too short")
    (found,) = verify(hand_signed(), minimum=2048)
    assert (found.result, found.reason) == (Result.POLICY, "RSA key of 1024 bits is weak")


def test_keys_that_cost_too_much_are_refused() -> None:
    for numbers in (RSAPublicNumbers(e=(1 << 70) + 1, n=(1 << 2047) + 9), RSAPublicNumbers(e=3, n=(1 << 9000) + 9)):
        key = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        (found,) = verify(hand_signed(), KeyZone({RSA_NAME: b"p=" + base64.b64encode(key)}))
        assert found.result is Result.PERMERROR
        assert "too large" in found.reason or "unusable" in found.reason


def test_strict_keys_forbid_subdomains() -> None:
    resolver = rsa_record("t=s; ")
    assert verify(hand_signed({"i": "a@example.org"}), resolver)[0].result is Result.PASS
    assert verify(hand_signed(), resolver)[0].result is Result.PASS
    found = verify(hand_signed({"i": "a@sub.example.org"}), resolver)[0]
    assert (found.result, "subdomain" in found.reason) == (Result.PERMERROR, True)


def test_every_signature_counts_and_too_many_are_not_checked() -> None:
    message = hand_signed()
    many = AuthenticatedMessage(message.fields[:1] * 10_000 + message.fields[1:], message.body)
    resolver = zone()
    results = verify(many, resolver)
    assert [result.result for result in results] == [Result.PASS] * MAX_SIGNATURES + [Result.POLICY]
    assert results[-1].reason == "9990 more signatures not checked"
    assert resolver.asked == [RSA_NAME]


def test_a_truncated_body_with_l() -> None:
    body = b"Hello,\r\n"
    message = hand_signed({"l": "8"}, body=body)
    longer = AuthenticatedMessage(message.fields, BytesBody(body + b"added\r\n", wireformat=True))
    (found,) = verify(longer)
    assert (found.result, found.body_length) == (Result.PASS, 8)


def test_a_second_from_is_caught_by_h_order() -> None:
    message = hand_signed({"h": "from:from:to"})
    assert verify(message)[0].result is Result.FAIL  # hand_signed() hashed the only From twice
    forged = AuthenticatedMessage((b"From: <eve@evil.example>\n", *hand_signed().fields), message.body)
    assert verify(forged)[0].result is Result.PASS  # the lowest From is the signed one


def test_the_signers_hash_is_made_in_the_same_reading() -> None:
    class Counted(BytesBody):
        readings = 0

        def chunks(self):  # type: ignore[no-untyped-def]
            Counted.readings += 1
            return super().chunks()

    signed = hand_signed({"c": "simple/simple"})
    message = AuthenticatedMessage(signed.fields, Counted(b"Hello,\r\n", wireformat=True))
    verify_signatures(message, zone(), now=NOW, also=(SIGNING_REQUEST,))
    AuthenticatedMessage(FIELDS, message.body).body_hash(SIGNING_REQUEST)
    assert Counted.readings == 1
