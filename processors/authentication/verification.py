"""Verifying everything that is signed on a message, in one pass over its body.

Diagnostics: raises nothing for what a message or DNS holds; OSError of the body goes through.
"""

from __future__ import annotations

from collections.abc import Collection

from ...lookups.dns import Resolver
from .arc_verify import ArcResult, ArcSignatures
from .body_hash import BodyHashRequest
from .dkim_verify import DkimResult, DkimSignatures
from .keys import KeyLookup
from .message import AuthenticatedMessage
from .signature_check import Times


def verify_signatures(
    message: AuthenticatedMessage,
    resolver: Resolver,
    *,
    now: float,
    received: float | None = None,
    deadline: float | None = None,
    client_address: str = "",
    minimum_rsa_bits: int = 1024,
    also: Collection[BodyHashRequest] = (),
) -> tuple[list[DkimResult], ArcResult]:
    """Verify all DKIM signatures and the ARC chain.

    now and received, when the message came, are Unix times (see Times); deadline is a
    time.monotonic() value for DNS. DKIM keys below minimum_rsa_bits give
    ``policy``. also names body hashes that a signer after this will want (SIGNING_REQUEST
    for those here), so that one reading of the body serves all; they stay with message.body.
    """
    dkim = DkimSignatures(message)
    arc = ArcSignatures(message)
    message.will_need(also)
    keys, times = KeyLookup(resolver, deadline), Times.of(now, received)
    dkim_results = dkim.verify(keys, times, minimum_rsa_bits=minimum_rsa_bits)
    return dkim_results, arc.verify(keys, times, client_address=client_address)
