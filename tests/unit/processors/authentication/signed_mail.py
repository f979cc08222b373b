"""Keys, a resolver fed from a dict, and messages for the tests of signatures."""

from __future__ import annotations

import base64
import hashlib
import importlib
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from respool.lookups.dns import Answer, DnsTemporaryError, MailExchanger, TlsaRecord
from respool.processors.api import Context
from respool.processors.authentication.keys import SigningKey, public_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.results import AuthResult
from respool.spool.body import BytesBody
from respool.spool.directive import Directive
from respool.spool.envelope import Envelope, Header, Recipient
from respool.spool.ids import MessageId
from respool.spool.message import Message

#: Without type information, hence Any.
dkimpy: Any = importlib.import_module("dkim")

NOW = 1_700_000_000


class KeyZone:
    """TXT records by name; names in broken have a name server that does not answer. Counts its questions."""

    def __init__(self, records: Mapping[str, bytes | list[bytes]], *, broken: tuple[str, ...] = ()) -> None:
        self.records = {name.lower(): text if isinstance(text, list) else [text] for name, text in records.items()}
        self.broken = broken
        self.asked: list[str] = []

    def txt(self, name: str, *, deadline: float | None = None) -> Answer[bytes]:
        self.asked.append(name)
        if name.lower() in self.broken:
            raise DnsTemporaryError(f"{name} TXT", "SERVFAIL")
        found = self.records.get(name.lower())
        return Answer(tuple(found)) if found is not None else Answer((), exists=False)

    def addresses(self, name: str, version: int, *, deadline: float | None = None) -> Answer[str]:
        raise AssertionError("no signature needs addresses")

    def mail_exchangers(self, name: str, *, deadline: float | None = None) -> Answer[MailExchanger]:
        raise AssertionError("no signature needs MX records")

    def pointers(self, address: str, *, deadline: float | None = None) -> Answer[str]:
        raise AssertionError("no signature needs PTR records")

    def tlsa(self, name: str, *, deadline: float | None = None) -> Answer[TlsaRecord]:
        raise AssertionError("no signature needs TLSA records")


def rsa_private_key(bits: int = 1024) -> RSAPrivateKey:
    """A key made once per test run; 1024 bits because making larger ones takes long."""
    return _make_rsa_private_key(bits)


@cache
def _make_rsa_private_key(bits: int) -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ed25519_private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def pem(key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def rsa_key(bits: int = 1024) -> SigningKey:
    return SigningKey(rsa_private_key(bits))


def ed25519_key() -> SigningKey:
    return SigningKey(ed25519_private_key())


def zone() -> KeyZone:
    """``rsa`` and ``ed`` at example.org and sealer.example."""
    records = {"rsa": public_record(rsa_private_key()), "ed": public_record(ed25519_private_key())}
    return KeyZone(
        {
            f"{selector}._domainkey.{domain}": text
            for selector, text in records.items()
            for domain in ("example.org", "sealer.example")
        }
    )


FIELDS = (
    b"Received: from a.example ([192.0.2.1])\n\tby mx.example.net; Tue, 14 Nov 2023 22:13:20 +0000\n",
    b"From: Ann Example <ann@example.org>\n",
    b"To: Bob <bob@example.net>,\n  Carol <carol@example.net>\n",
    b"Subject:   a   test  \n",
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\n",
    b"Message-Id: <1@example.org>\n",
)
BODY = b"Hello,\n\n  this is  a\ttest. \n\n\n"


def spool_message(
    fields: tuple[bytes, ...] = FIELDS, body: bytes = BODY, *, recipients: tuple[bytes, ...] = (b"bob@example.net",)
) -> Message:
    envelope = Envelope(
        id=MessageId("1r2abc-00000000001-0001"),
        login=b"Debian-exim",
        uid=100,
        gid=100,
        sender=b"ann@example.org",
        received_time=NOW,
        warning_count=0,
        directives=(Directive.make(b"host_address", b"[192.0.2.1]:4567"),),
        recipients=tuple(Recipient.make(address) for address in recipients),
        headers=tuple(Header(flag=" ", raw=field) for field in fields),
    )
    return Message(envelope, BytesBody(body))


def context(
    resolver: KeyZone, *, results: tuple[AuthResult, ...] = (), authserv_id: str = "mx.example.net", attempt: int = 1
) -> Context:
    return Context(
        hostname="mx.example.net",
        authserv_id=authserv_id,
        resolver=resolver,
        log=structlog.get_logger(),
        now=float(NOW),
        deadline=time.monotonic() + 30,
        attempt=attempt,
        results=results,
    )


def wire(message: Message) -> bytes:
    """The message as it goes over SMTP, for other implementations to look at."""
    fields = b"".join(header.raw for header in message.sent_headers)
    body = b"".join(message.body.chunks())
    return (fields + b"\n" + body).replace(b"\n", b"\r\n")


def dkimpy_lookup(resolver: KeyZone) -> Any:
    """The dnsfunc that dkimpy takes."""

    def lookup(name: bytes, timeout: int = 5) -> bytes | None:
        records = resolver.txt(name.decode().rstrip(".")).records
        return records[0] if records else None

    return lookup


def hand_signed(
    changes: Mapping[str, str | None] | None = None,
    *,
    key: SigningKey | None = None,
    fields: tuple[bytes, ...] = FIELDS,
    body: bytes = b"Hello,\r\n",
    also_hashed: bytes = b"",
) -> AuthenticatedMessage:
    """A message with one DKIM-Signature, made step by step and independently of the code under test.

    changes replaces tags (None removes one), before the signature is made over whatever
    results. Header fields are one line each; h= is honoured for fields that occur once.
    """
    key = key or rsa_key()
    tags: dict[str, str | None] = {
        "v": "1", "a": key.algorithm.decode(), "c": "relaxed/relaxed", "d": "example.org",
        "s": "ed" if key.algorithm.startswith(b"ed") else "rsa", "h": "from:to:subject",
        "bh": base64.b64encode(hashlib.sha256(body + also_hashed).digest()).decode(),
    }  # fmt: skip
    tags.update(changes or {})
    text = "; ".join(f"{name}={value}" for name, value in tags.items() if value is not None) + "; b="
    covered = b""
    for name in (tags["h"] or "").lower().split(":"):
        for field in fields:
            if field.lower().startswith(name.strip().encode() + b":"):
                covered += name.strip().encode() + b":" + b" ".join(field.partition(b":")[2].split()) + b"\r\n"
    covered += b"dkim-signature:" + " ".join(text.split()).encode()
    value = text + base64.b64encode(key.sign(hashlib.sha256(covered).digest())).decode()
    return AuthenticatedMessage(
        (b"DKIM-Signature: " + value.encode() + b"\n", *fields), BytesBody(body, wireformat=True)
    )
