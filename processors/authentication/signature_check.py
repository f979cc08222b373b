"""What DKIM-Signature and ARC-Message-Signature have in common when they are checked or made.

Diagnostics: raises nothing; a fault is a sentence, None where there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

from msgspec import Struct

from .canonicalization import Canonicalization, relaxed_field, simple_field
from .keys import KeyRecord
from .message import AuthenticatedMessage, SentField
from .signature import MessageSignature, Signature

#: How far in the future ``t=`` may lie, in seconds: clocks differ.
ALLOWED_CLOCK_SKEW: Final = 300


def signed_digest(
    message: AuthenticatedMessage,
    raw_name: bytes,
    unsigned_value: bytes,
    header_names: Collection[bytes],
    algorithm: Canonicalization,
) -> bytes:
    """The SHA-256 that a signature over header fields signs (RFC 6376 3.7).

    raw_name is the name of the signature's own field as written, with any white space
    before the colon; unsigned_value its value without that of ``b=``.
    """
    if algorithm is Canonicalization.SIMPLE:
        own_field = simple_field(raw_name + b":" + unsigned_value)
    else:
        own_field = relaxed_field(raw_name.rstrip().lower(), unsigned_value)
    return hashlib.sha256(message.header_data(header_names, algorithm) + own_field).digest()


def signature_digest(message: AuthenticatedMessage, field: SentField, signature: MessageSignature) -> bytes:
    """The SHA-256 that the signature in field should be over."""
    return signed_digest(
        message, field.raw_name, signature.unsigned_value, signature.header_names, signature.header_canonicalization
    )


class Times(Struct, frozen=True):
    """Unix times: now, for ``t=``, and the reception, for ``x=``: what expires in our queue has not expired.

    RFC 6376 3.5: the time of verification should be that at which the message was first received.
    """

    now: float
    received: float

    @classmethod
    def of(cls, now: float, received: float | None) -> Times:
        """Received is None where nobody noted it."""
        return cls(now, now if received is None else min(now, received))


def time_fault(signature: Signature, times: Times) -> str | None:
    """What is wrong with ``t=`` and ``x=``."""
    if signature.signed_at is not None and signature.signed_at > times.now + ALLOWED_CLOCK_SKEW:
        return "signed in the future"
    if signature.expires_at is not None and signature.expires_at < times.received:
        return "signature expired"
    return None


def key_fault(key: KeyRecord, signature: Signature) -> str | None:
    """Why key must not be used for this signature (RFC 6376 6.1.2 steps 6-9, RFC 8301 3.2)."""
    return "inappropriate key algorithm" if signature.algorithm != key.algorithm else key.fault
