"""CPU per message of verifying and sealing: ours, the cryptographic floor of the same work, and dkimpy.

200 messages (120 of 2 KB, 60 of 10 KB, 16 of 100 KB, 4 of 1 MB), each with one DKIM
signature (RSA-2048), half of them with one or two ARC sets; DNS is a dict. Every
contender gets the same messages and the same key, in one run; each result is checked.

The floor is what no verifier and sealer can avoid: one SHA-256 over the body, the RSA
verifications that the message's signatures ask for, and two RSA signatures for a seal,
all through the same library, without parsing or canonicalising anything.

    python -m benchmarks.authentication [--rounds N] [--no-dkimpy]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from respool.lookups.dns import Answer
from respool.processors.authentication.arc_seal import NotSealed, Sealer, seal
from respool.processors.authentication.body_hash import SIGNING_REQUEST
from respool.processors.authentication.dkim_sign import DkimSigner, sign
from respool.processors.authentication.keys import SigningKey, public_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.verification import verify_signatures
from respool.processors.results import Result
from respool.spool.body import BytesBody

NOW = 1_700_000_000
SIZES = [2_000] * 120 + [10_000] * 60 + [100_000] * 16 + [1_000_000] * 4
SELECTOR, SIGNING_DOMAIN, SEALING_DOMAIN, AUTHSERV_ID = "s", "example.org", "sealer.example", "mx.example.net"


class StubDns:
    """The public key under both domains; nothing else is asked."""

    def __init__(self, key: RSAPrivateKey) -> None:
        self.record = public_record(key)

    def txt(self, name: str, *, deadline: float | None = None) -> Answer[bytes]:
        return Answer((self.record,))

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is not asked for here")


class Case:
    """One message in the forms that the contenders take, and what is true of it."""

    def __init__(self, fields: tuple[bytes, ...], body: bytes, sets: int) -> None:
        self.fields, self.body, self.sets = fields, body, sets
        self.wire = (b"".join(fields) + b"\n" + body).replace(b"\n", b"\r\n")
        self.results_field = fields[0]

    def message(self) -> AuthenticatedMessage:
        """As read anew: nothing that was computed before is kept."""
        return AuthenticatedMessage(self.fields, BytesBody(self.body))


def results_field(state: str) -> bytes:
    text = f"spf=pass smtp.mailfrom=ann@{SIGNING_DOMAIN};\n\tdkim=pass header.d={SIGNING_DOMAIN};\n\tarc={state}"
    return f"Authentication-Results: {AUTHSERV_ID};\n\t{text}\n".encode()


def text_body(size: int, maker: random.Random) -> bytes:
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


def make_cases(key: RSAPrivateKey) -> list[Case]:
    maker = random.Random(1)
    signing_key = SigningKey(key)
    sealer = Sealer(authserv_id=AUTHSERV_ID, domain=SEALING_DOMAIN, selector=SELECTOR, key=signing_key)
    signer = DkimSigner(domain=SIGNING_DOMAIN, selector=SELECTOR, key=signing_key)
    resolver: Any = StubDns(key)
    cases: list[Case] = []
    for number, size in enumerate(SIZES):
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
        body = text_body(size, maker)
        message = AuthenticatedMessage(fields, BytesBody(body))
        fields = (sign(message, signer, now=NOW).raw, *fields)
        sets = 0 if number % 2 else 1 + number // 2 % 2
        for instance in range(sets):
            with_results = (results_field("pass" if instance else "none"), *fields)
            before = AuthenticatedMessage(with_results, BytesBody(body))
            made = seal(before, verify_signatures(before, resolver, now=NOW)[1], sealer, now=NOW)
            assert not isinstance(made, NotSealed)
            fields = (*[header.raw for header in made.headers], *fields)
        cases.append(Case((results_field("pass" if sets else "none"), *fields), body, sets))
    return cases


def compare(cases: list[Case], contenders: dict[str, Callable[[Case], object]], rounds: int) -> dict[str, list[float]]:
    """CPU per message in milliseconds, one mean per round, by contender.

    The contenders take turns at every message: what else the machine does meets all of
    them alike, and the ratios of one round hold.
    """
    for case in cases[:20]:
        for work in contenders.values():
            work(case)
    means: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        spent = dict.fromkeys(contenders, 0.0)
        for case in cases:
            for name, work in contenders.items():
                begin = time.process_time()
                work(case)
                spent[name] += time.process_time() - begin
        for name, seconds in spent.items():
            means[name].append(seconds * 1000 / len(cases))
    return means


def floor_work(key: RSAPrivateKey, *, sealing: bool) -> Callable[[Case], object]:
    public, padding, prehashed = key.public_key(), PKCS1v15(), Prehashed(SHA256())
    digest = hashlib.sha256(b"").digest()
    signature = key.sign(digest, padding, prehashed)

    def work(case: Case) -> None:
        hashlib.sha256(case.wire).digest()
        for _ in range(1 + 2 * case.sets):  # the DKIM signature; AMS and seal of each set
            public.verify(signature, digest, padding, prehashed)
        if sealing:
            key.sign(digest, padding, prehashed)
            key.sign(digest, padding, prehashed)

    return work


def our_work(key: RSAPrivateKey, *, sealing: bool) -> Callable[[Case], object]:
    resolver: Any = StubDns(key)
    sealer = Sealer(authserv_id=AUTHSERV_ID, domain=SEALING_DOMAIN, selector=SELECTOR, key=SigningKey(key))
    also = (SIGNING_REQUEST,) if sealing else ()

    def work(case: Case) -> None:
        message = case.message()
        dkim, arc = verify_signatures(message, resolver, now=NOW, also=also)
        assert [result.result for result in dkim] == [Result.PASS]
        assert (arc.result, arc.instance) == (Result.PASS if case.sets else Result.NONE, case.sets)
        if sealing:
            made = seal(message, arc, sealer, now=NOW)
            assert not isinstance(made, NotSealed)
            assert made.instance == case.sets + 1

    return work


def dkimpy_work(key: RSAPrivateKey) -> Callable[[Case], object]:
    """Verification alone: dkimpy seals only with a further package."""
    dkimpy: Any = importlib.import_module("dkim")
    record = public_record(key)

    def lookup(name: bytes, timeout: int = 5) -> bytes:
        return record

    def work(case: Case) -> None:
        assert dkimpy.verify(case.wire, dnsfunc=lookup)
        cv, _, reason = dkimpy.arc_verify(case.wire, dnsfunc=lookup)
        assert cv == (b"pass" if case.sets else b"none"), reason

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per message of verifying and sealing, against floor and dkimpy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-dkimpy", action="store_true", help="leave the slow peer out")
    arguments = parser.parse_args()
    key = generate_private_key(public_exponent=65537, key_size=2048)
    cases = make_cases(key)
    peers = {} if arguments.no_dkimpy else {"dkimpy": dkimpy_work(key)}
    report("verify", cases, {"floor": floor_work(key, sealing=False), "ours": our_work(key, sealing=False), **peers},
           arguments.rounds)  # fmt: skip
    both = {"floor": floor_work(key, sealing=True), "ours": our_work(key, sealing=True)}
    report("verify + seal", cases, both, arguments.rounds)
    for size in (2_000, 10_000, 100_000, 1_000_000):
        some = [case for case, its_size in zip(cases, SIZES, strict=True) if its_size == size]
        report(f"  {size // 1000} KB", some, both, arguments.rounds)


def report(name: str, cases: list[Case], contenders: dict[str, Callable[[Case], object]], rounds: int) -> None:
    """One line: medians of the rounds, and medians of the ratios within a round."""
    means = compare(cases, contenders, rounds)
    figures = [f"{contender} {statistics.median(values):7.3f} ms" for contender, values in means.items()]
    for above, below in (("ours", "floor"), ("dkimpy", "ours")):
        if above in means:
            ratio = statistics.median(a / b for a, b in zip(means[above], means[below], strict=True))
            figures.append(f"{above}/{below} {ratio:.2f}")
    print(f"{name:14}" + "   ".join(figures))


if __name__ == "__main__":
    main()
