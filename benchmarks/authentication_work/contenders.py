"""The contenders that live in this process: the cryptographic floor, ours, dkimpy with pyspf.

Diagnostics: AssertionError where a contender's result is not what is true of the message.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from respool.processors.authentication.arc_seal import ArcSetFields, Sealer, seal
from respool.processors.authentication.authres import render_authentication_results
from respool.processors.authentication.body_hash import SIGNING_REQUEST
from respool.processors.authentication.evaluation import DmarcSettings, evaluate_message
from respool.processors.authentication.keys import SigningKey
from respool.processors.authentication.spf import evaluate_spf
from respool.processors.results import Result

from .messages import (
    AUTHSERV_ID,
    CLIENT,
    HELO,
    SEALING_DOMAIN,
    SELECTOR,
    SENDER,
    SIGNING_DOMAIN,
    Case,
    StubDns,
    zone,
)
from .signed_bytes import cryptography_of


class Contender(Protocol):
    """Somebody who can do the job. name is how the table calls him."""

    name: str

    def work(self, case: Case) -> None:
        """Do the job on one message, and check the result."""
        ...

    def cpu(self) -> float:
        """Seconds of CPU that he has used so far."""
        ...

    def close(self) -> None:
        """End what was started for him."""
        ...


class InProcess:
    """A contender that is a function here; only the time inside of it counts."""

    def __init__(self, name: str, function: Callable[[Case], None]) -> None:
        self.name = name
        self._function = function
        self._spent = 0.0

    def work(self, case: Case) -> None:
        begin = time.process_time()
        self._function(case)
        self._spent += time.process_time() - begin

    def cpu(self) -> float:
        return self._spent

    def close(self) -> None:
        """Nothing was started."""


def floor(key: RSAPrivateKey, cases: list[Case], *, sealing: bool) -> InProcess:
    """The cryptography that any correct implementation does, on bytes made ready for it beforehand.

    One SHA-256 over the canonical body; for each signature one over what it covers and a
    true RSA verification (DKIM; message signature and seal of each set); for a seal two
    hashes over what the new fields cover and two RSA signatures. Keys are objects already.
    Nothing is parsed, canonicalised or decoded.
    """
    public, padding, prehashed = key.public_key(), PKCS1v15(), Prehashed(SHA256())
    prepared = {case.number: cryptography_of(case, key) for case in cases}

    def work(case: Case) -> None:
        job = prepared[case.number]
        hashlib.sha256(job.body).digest()
        for covered, signature in job.verified:
            public.verify(signature, hashlib.sha256(covered).digest(), padding, prehashed)
        if sealing:
            for covered in job.signed:
                key.sign(hashlib.sha256(covered).digest(), padding, prehashed)

    return InProcess("floor", work)


def ours(key: RSAPrivateKey, now: int, *, sealing: bool) -> InProcess:
    """Verify, evaluate SPF and DMARC, write Authentication-Results, seal: as the processors do it."""
    resolver: Any = StubDns(zone(key))
    sealer = Sealer(authserv_id=AUTHSERV_ID, domain=SEALING_DOMAIN, selector=SELECTOR, key=SigningKey(key))
    settings = DmarcSettings()
    also = (SIGNING_REQUEST,) if sealing else ()

    def work(case: Case) -> None:
        message = case.message()
        spf = evaluate_spf(
            client_ip=CLIENT, helo=HELO.encode(), mail_from=SENDER.encode(), resolver=resolver, now=now
        )  # fmt: skip
        found = evaluate_message(
            message, spf=spf, resolver=resolver, now=now, client_address=CLIENT, dmarc=settings, also=also
        )
        assert found.dmarc is not None
        assert (spf.result, found.dmarc.result) == (Result.PASS, Result.PASS)
        assert [result.result for result in found.dkim] == [Result.PASS]
        assert (found.arc.result.value, found.arc.instance) == (case.state, case.sets)
        value = render_authentication_results(AUTHSERV_ID, found.results)
        if sealing:
            field = f"Authentication-Results: {value}\n".encode()
            made = seal(message.with_top(field), found.arc, sealer, now=now)
            assert isinstance(made, ArcSetFields)
            assert made.instance == case.sets + 1

    return InProcess("respool", work)


def dkimpy(key: RSAPrivateKey, pem: bytes, *, sealing: bool) -> InProcess:
    """dkimpy and pyspf. They have no DMARC: for it nothing is charged."""
    library: Any = importlib.import_module("dkim")
    spf: Any = importlib.import_module("spf")
    if sealing:
        importlib.import_module("authres")  # without it dkimpy can't seal
    records = zone(key)

    def lookup(name: bytes, timeout: int = 5) -> bytes | None:
        return records.get(name.decode().rstrip("."))

    def spf_lookup(name: str, kind: str, *_: object, **__: object) -> list[Any]:
        text = records.get(name.rstrip("."))
        return [((name, kind), (text,))] if kind == "TXT" and text is not None else []

    spf.DNSLookup = spf_lookup

    def work(case: Case) -> None:
        result, _ = spf.check2(i=CLIENT, s=SENDER, h=HELO)
        assert result == "pass"
        assert library.verify(case.wire, dnsfunc=lookup)
        cv, _, reason = library.arc_verify(case.wire, dnsfunc=lookup)
        assert cv == case.state.encode(), reason
        if sealing:
            field = (
                f"Authentication-Results: {AUTHSERV_ID}; spf=pass smtp.mailfrom={SENDER};"
                f" dkim=pass header.d={SIGNING_DOMAIN}; arc={case.state}\r\n"
            )
            made = library.arc_sign(
                field.encode() + case.wire, SELECTOR.encode(), SEALING_DOMAIN.encode(), pem, AUTHSERV_ID.encode()
            )
            assert made
            assert b"i=%d;" % (case.sets + 1) in made[0]

    return InProcess("dkimpy+pyspf", work)
