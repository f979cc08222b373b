"""The messages of the benchmark, the zone they live in, and what is true of each.

200 messages (120 of 2 KB, 60 of 10 KB, 16 of 100 KB, 4 of 1 MB), each with one DKIM
signature (RSA-2048), half of them with one or two ARC sets, a quarter with a subdomain in
From. All pass SPF, DKIM and DMARC, and those with sets ARC.

Diagnostics: AssertionError where the messages can't be made.
"""

from __future__ import annotations

import random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from respool.lookups.dns import Answer
from respool.processors.authentication.arc_seal import NotSealed, Sealer, seal
from respool.processors.authentication.dkim_sign import DkimSigner, sign
from respool.processors.authentication.keys import SigningKey, public_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.verification import verify_signatures
from respool.spool.body import BytesBody

SIZES = [2_000] * 120 + [10_000] * 60 + [100_000] * 16 + [1_000_000] * 4
SELECTOR, SIGNING_DOMAIN, SEALING_DOMAIN, AUTHSERV_ID = "s", "example.org", "sealer.example", "mx.example.net"
CLIENT, HELO, SENDER = "192.0.2.9", "out.example.org", f"ann@{SIGNING_DOMAIN}"


def zone(key: RSAPrivateKey) -> dict[str, bytes]:
    """The TXT records that there are; every other name does not exist."""
    record = public_record(key)
    return {
        f"{SELECTOR}._domainkey.{SIGNING_DOMAIN}": record,
        f"{SELECTOR}._domainkey.{SEALING_DOMAIN}": record,
        SIGNING_DOMAIN: b"v=spf1 ip4:198.51.100.0/24 ip4:192.0.2.0/24 -all",
        f"_dmarc.{SIGNING_DOMAIN}": b"v=DMARC1; p=reject; rua=mailto:dmarc@example.org; adkim=r; aspf=r",
    }


class StubDns:
    """The zone as a resolver."""

    def __init__(self, records: dict[str, bytes]) -> None:
        self._answers = {name: Answer((text,)) for name, text in records.items()}
        self._nothing: Answer[bytes] = Answer((), exists=False)

    def txt(self, name: str, *, deadline: float | None = None) -> Answer[bytes]:
        return self._answers.get(name, self._nothing)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not asked for here")


class Case:
    """One message in the forms that the contenders take; sets is how many ARC sets it has."""

    def __init__(self, number: int, fields: tuple[bytes, ...], body: bytes, sets: int) -> None:
        self.number, self.fields, self.body, self.sets = number, fields, body, sets
        self.wire = (b"".join(fields) + b"\n" + body).replace(b"\n", b"\r\n")

    @property
    def state(self) -> str:
        """What ARC must say."""
        return "pass" if self.sets else "none"

    def message(self) -> AuthenticatedMessage:
        """As read anew: nothing that was computed before is kept."""
        return AuthenticatedMessage(self.fields, BytesBody(self.body))


def _text_body(size: int, maker: random.Random) -> bytes:
    """Lines of words for small messages; large ones are mostly base64, as attachments make them."""
    lines: list[bytes] = []
    total = 0
    while total < size:
        if total < 8_000:
            words = [bytes(maker.choices(b"abcdefghijklmnopqrstuvwxyz", k=maker.randrange(1, 10))) for _ in range(11)]
            line = b" ".join(words)
        else:
            line = bytes(maker.choices(b"ABCDEFGHabcdefgh01234567+/", k=76))
        lines.append(line + b"\n")
        total += len(line) + 1
    return b"".join(lines)


def results_field(state: str) -> bytes:
    """Authentication-Results as the sealer finds them."""
    text = f"spf=pass smtp.mailfrom={SENDER};\n\tdkim=pass header.d={SIGNING_DOMAIN};\n\tarc={state}"
    return f"Authentication-Results: {AUTHSERV_ID};\n\t{text}\n".encode()


def make_cases(key: RSAPrivateKey, now: int) -> list[Case]:
    """The messages, signed and sealed at now."""
    maker = random.Random(1)
    sets = [0 if number % 2 else 1 + number // 2 % 2 for number in range(len(SIZES))]
    return [make_case(number, size, sets[number], key, now, maker) for number, size in enumerate(SIZES)]


def make_case(number: int, size: int, sets: int, key: RSAPrivateKey, now: int, maker: random.Random) -> Case:
    """One message with a body of size bytes, a DKIM signature and that many ARC sets."""
    signing_key = SigningKey(key)
    sealer = Sealer(authserv_id=AUTHSERV_ID, domain=SEALING_DOMAIN, selector=SELECTOR, key=signing_key)
    signer = DkimSigner(domain=SIGNING_DOMAIN, selector=SELECTOR, key=signing_key)
    resolver: Any = StubDns(zone(key))
    author = f"mail.{SIGNING_DOMAIN}" if number % 4 == 0 else SIGNING_DOMAIN
    fields: tuple[bytes, ...] = (
        *[b"Received: from h%d.example ([192.0.2.%d])\n\tby mx.example.net; a date\n" % (n, n) for n in range(4)],
        f"From: Ann Example <ann@{author}>\n".encode(),
        b"To: Bob <bob@example.net>\n",
        b"Subject: message number %d, with a subject of the usual length\n" % number,
        b"Date: Tue, 14 Nov 2023 22:13:20 +0000\n",
        b"Message-ID: <%d@example.org>\n" % number,
        b"MIME-Version: 1.0\n",
        b"Content-Type: text/plain; charset=utf-8\n",
        b"X-Mailer: a mailer of the usual kind\n",
    )
    body = _text_body(size, maker)
    fields = (sign(AuthenticatedMessage(fields, BytesBody(body)), signer, now=now).raw, *fields)
    for instance in range(sets):
        before = AuthenticatedMessage((results_field("pass" if instance else "none"), *fields), BytesBody(body))
        made = seal(before, verify_signatures(before, resolver, now=now)[1], sealer, now=now)
        assert not isinstance(made, NotSealed)
        fields = (*[header.raw for header in made.headers], *fields)
    return Case(number, fields, body, sets)
