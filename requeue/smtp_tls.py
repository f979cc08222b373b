"""TLS to the next hop: by Postfix's levels, verified by WebPKI or by DANE (RFC 7672).

Python's ssl verifies by certificate authorities only. For DANE the handshake verifies nothing,
and the certificates that the server showed are compared with the TLSA records before the first
byte is sent: DANE-EE by the certificate or its key alone, DANE-TA by a path that `cryptography`
builds from the server's certificate up to the one that the record names.

Diagnostics: TlsError (temporary: mail waits until somebody repairs it) where the handshake or the
verification fails; ConfigError from make_context() for a CA file that can't be read.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from msgspec import Struct

from ..errors import ConfigError
from ..lookups.dane import DaneStatus, HostDane
from ..lookups.dns import TlsaRecord
from .smtp_replies import DialogueError

Level = Literal["none", "may", "encrypt", "verify", "dane", "dane-only"]

_MOST_CERTIFICATES = 20


class TlsError(DialogueError):
    """No TLS session of the wanted quality: nothing was sent."""


class TlsPlan(Struct, frozen=True, kw_only=True):
    """What one connection does about TLS. records: DANE records of which one has to match.

    required: no mail without TLS. verify: by WebPKI. name is what is asked for (SNI) and verified.
    """

    offered_is_used: bool
    required: bool
    verify: bool
    name: str
    records: tuple[TlsaRecord, ...] = ()


def plan_tls(level: Level, host: str, dane: HostDane | None) -> TlsPlan:
    """What to do at a level. dane is the preflight of host, for the two levels that want one. Raises TlsError."""
    if dane is None:
        return TlsPlan(
            offered_is_used=level != "none",
            required=level in {"encrypt", "verify"},
            verify=level == "verify",
            name=host,
        )
    if dane.status in {DaneStatus.TEMPERROR, DaneStatus.BOGUS}:
        # RFC 7672 2.1.2, 2.1.1: never weaker because of trouble.
        raise TlsError(f"DANE: {host}: {dane.reason}", detail=f"dane {dane.status.value}")
    if dane.status is DaneStatus.USABLE:
        return TlsPlan(offered_is_used=True, required=True, verify=False, name=dane.base or host, records=dane.usable)
    if level == "dane-only":
        raise TlsError(f"DANE is required: {host}: {dane.reason}", detail=f"dane {dane.status.value}")
    # RFC 7672 2.2: secure but unusable records ask for TLS that nothing authenticates.
    is_unusable = dane.status is DaneStatus.UNUSABLE
    return TlsPlan(offered_is_used=True, required=is_unusable, verify=False, name=host)


def make_context(*, verify: bool, ca_file: str | None) -> ssl.SSLContext:
    """A context for plans that verify by WebPKI, or for those that do not. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=ca_file if verify else None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca_file}: {error}", key="$.requeue.ca_file") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def start_tls(plain: socket.socket, plan: TlsPlan, context: ssl.SSLContext) -> ssl.SSLSocket:
    """The handshake and the verification of plan, within the socket's timeout. Raises TlsError."""
    try:
        secure = context.wrap_socket(plain, server_hostname=plan.name)
    except (ssl.SSLError, ssl.CertificateError, ValueError) as error:
        raise TlsError(f"TLS: {_sentence(error)}", detail="TLS handshake") from error
    if plan.records:
        chain = peer_chain(secure)
        if not matches(chain, plan.records, plan.name):
            secure.close()
            raise TlsError(f"DANE: no TLSA record of {plan.name} matches its certificate", detail="dane mismatch")
    return secure


def _sentence(error: Exception) -> str:
    message = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
    return f"{message}"


def peer_chain(secure: ssl.SSLSocket) -> tuple[bytes, ...]:
    """The certificates that the server showed, its own first, as DER.

    Public in Python 3.13; until then the same method of the object behind it, present since 3.10.
    Where neither is, the server's own certificate alone: DANE-TA then fails, which is safe.
    """
    owner: Any = secure if hasattr(secure, "get_unverified_chain") else getattr(secure, "_sslobj", None)
    get_chain = getattr(owner, "get_unverified_chain", None)
    if get_chain is None:
        own = secure.getpeercert(binary_form=True)
        return (own,) if own else ()
    found: list[bytes] = []
    shown: list[Any] = list(get_chain() or ())
    for certificate in shown[:_MOST_CERTIFICATES]:
        found.append(
            certificate if isinstance(certificate, bytes) else ssl.PEM_cert_to_DER_cert(certificate.public_bytes())
        )
    return tuple(found)


def matches(chain: Sequence[bytes], records: Iterable[TlsaRecord], name: str) -> bool:
    """Whether one of the usable records authenticates the server that showed chain as name (RFC 7671)."""
    if not chain:
        return False
    for record in records:
        # RFC 7671 5.1: for DANE-EE neither names, dates nor issuers count.
        if record.usage == 3 and _is_matched(chain[0], record):
            return True
        if record.usage == 2 and _is_anchored(chain, record, name):
            return True
    return False


def _is_matched(certificate: bytes, record: TlsaRecord) -> bool:
    selected = certificate
    if record.selector == 1:
        try:
            key = x509.load_der_x509_certificate(certificate).public_key()
        except (ValueError, UnsupportedAlgorithm):
            return False
        selected = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if record.matching == 1:
        selected = hashlib.sha256(selected).digest()
    elif record.matching == 2:
        selected = hashlib.sha512(selected).digest()
    return hmac.compare_digest(selected, record.data)


def _is_anchored(chain: Sequence[bytes], record: TlsaRecord, name: str) -> bool:
    """DANE-TA: a certificate above the server's own is the record's, and the path up to it holds."""
    candidates = [*chain[1:]]
    if record.selector == 0 and record.matching == 0:
        # The record is the certificate: the server need not show it (RFC 7671 5.2.2).
        candidates.append(record.data)
    for candidate in candidates:
        if not _is_matched(candidate, record):
            continue
        try:
            anchor = x509.load_der_x509_certificate(candidate)
            own = x509.load_der_x509_certificate(chain[0])
            others = [x509.load_der_x509_certificate(one) for one in chain[1:]]
            verifier = PolicyBuilder().store(Store([anchor])).build_server_verifier(x509.DNSName(name))
            verifier.verify(own, others)
        except (VerificationError, ValueError, UnsupportedAlgorithm):
            continue
        return True
    return False
