"""Private keys from PEM, public keys from records, and the lookup of one message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from respool.errors import ConfigError
from respool.processors.authentication import keys
from respool.processors.authentication.keys import (
    KeyFault,
    KeyLookup,
    KeyRecord,
    KeyType,
    SigningKey,
    key_from_file,
    load_signing_key,
    parse_key_record,
    parse_signing_key,
)
from respool.processors.authentication.signature_text import encode_base64
from respool.processors.authentication.signing import parse_key_specification
from respool.processors.results import Result

from .signed_mail import ed25519_private_key, pem, rsa_private_key, zone

DIGEST = hashlib.sha256(b"text").digest()


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_rsa_in_both_pem_forms(form: PrivateFormat) -> None:
    key = parse_signing_key(rsa_private_key().private_bytes(Encoding.PEM, form, NoEncryption()))
    record = parse_key_record(key.public_record)
    assert isinstance(record, KeyRecord)
    assert (record.key_type, record.bits, key.algorithm) == (KeyType.RSA, 1024, b"rsa-sha256")
    assert record.verify(key.sign(DIGEST), DIGEST)
    assert not record.verify(key.sign(DIGEST), hashlib.sha256(b"other").digest())
    assert not record.verify(b"", DIGEST)


def test_ed25519() -> None:
    pem = ed25519_private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key = parse_signing_key(pem)
    record = parse_key_record(key.public_record)
    assert isinstance(record, KeyRecord)
    assert (record.key_type, record.bits, key.algorithm) == (KeyType.ED25519, 256, b"ed25519-sha256")
    assert record.verify(key.sign(DIGEST), DIGEST)
    assert not record.verify(key.sign(DIGEST)[:-1], DIGEST)


def test_a_bare_rsa_public_key_is_read_too() -> None:
    # RFC 6376 3.6.1 says RSAPublicKey, its examples are SubjectPublicKeyInfo (erratum 3017): both are published.
    bare = rsa_private_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    record = parse_key_record(b"p=" + encode_base64(bare))
    assert isinstance(record, KeyRecord)
    assert record.bits == 1024


def test_white_space_in_the_key_is_ignored() -> None:
    text = parse_signing_key(
        rsa_private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ).public_record
    head, p, key = text.partition(b"p=")
    spread = b" \r\n ".join(key[start : start + 60] for start in range(0, len(key), 60))
    assert isinstance(parse_key_record(head + p + spread + b" ; n=x"), KeyRecord)


def test_a_key_is_validated_the_first_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped: list[bool] = []
    real: Any = vars(keys)["load_pem_private_key"]

    def recording(data: bytes, password: None, *, unsafe_skip_rsa_key_validation: bool) -> object:
        skipped.append(unsafe_skip_rsa_key_validation)
        return real(data, password, unsafe_skip_rsa_key_validation=unsafe_skip_rsa_key_validation)

    monkeypatch.setattr(keys, "load_pem_private_key", recording)
    monkeypatch.setattr(keys, "_validated", set())
    pem = rsa_private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    parse_signing_key(pem)
    parse_signing_key(pem)
    parse_signing_key(pem + b"\n")
    assert skipped == [False, True, False]


def test_keys_of_other_kinds_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ConfigError, match="neither an RSA nor an Ed25519 key"):
        parse_signing_key(other)
    secret = rsa_private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    with pytest.raises(ConfigError, match="passphrase"):
        parse_signing_key(secret)
    for broken in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(ConfigError):
            parse_signing_key(broken)


def test_one_question_for_each_name() -> None:
    resolver = zone()
    lookup = KeyLookup(resolver)
    first = lookup.find("example.org", "rsa")
    assert lookup.find("example.org", "rsa") is first
    assert lookup.find("example.org", "none") == KeyFault(Result.PERMERROR, "no key for signature", is_lookup=True)
    assert resolver.asked == ["rsa._domainkey.example.org", "none._domainkey.example.org"]


def from_table(text: str) -> SigningKey:
    return key_from_file(parse_key_specification(f"a.example : s : {text}").key_file)


def from_line(text: str) -> SigningKey:
    return key_from_file(parse_key_specification(text).key_file)


@pytest.mark.parametrize("read", [load_signing_key, key_from_file, from_table, from_line])
def test_a_key_in_the_place_of_its_path_is_not_shown(read: Callable[[str], SigningKey]) -> None:
    secret = pem(rsa_private_key()).decode()
    for text in (secret, secret.replace("\n", ""), "\n" + secret):
        with pytest.raises(ConfigError) as caught:
            read(text)
        assert caught.value.reason == "a private key stands where the path of its file belongs"
