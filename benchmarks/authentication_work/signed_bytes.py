"""What of a message is hashed, verified and signed: the input of the floor, made before anything is measured.

Diagnostics: AssertionError where a message can't be sealed.
"""

from __future__ import annotations

import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from msgspec import Struct

from respool.processors.authentication.arc_chain import read_chain
from respool.processors.authentication.arc_seal import NotSealed, Sealer, seal
from respool.processors.authentication.canonicalization import (
    BodyCanonicalizer,
    Canonicalization,
    relaxed_field,
    simple_field,
)
from respool.processors.authentication.keys import SigningKey
from respool.processors.authentication.message import AuthenticatedMessage, SentField
from respool.processors.authentication.signature import (
    MessageSignature,
    parse_arc_message_signature,
    parse_arc_seal,
    parse_dkim_signature,
    parse_tag_list,
)
from respool.processors.authentication.verification import verify_signatures

from .messages import AUTHSERV_ID, SEALING_DOMAIN, SELECTOR, Case, StubDns, results_field, zone


class Cryptography(Struct, frozen=True):
    """The canonical body; what each signature on the message covers, with the signature; what a new set's two cover."""

    body: bytes
    verified: tuple[tuple[bytes, bytes], ...]
    signed: tuple[bytes, ...]


def cryptography_of(case: Case, key: RSAPrivateKey) -> Cryptography:
    """The work that case asks for."""
    message = case.message()
    signatures = [(field, parse_dkim_signature(field.value)) for field in message.named(b"dkim-signature")]
    dkim = [(_covered(message, field, parsed), parsed.signature) for field, parsed in signatures]
    sealed = _sealed(message, case, key)
    return Cryptography(
        body=_canonical_body(case.body),
        verified=(*dkim, *_chain(message)),
        signed=tuple([covered for covered, _ in _chain(sealed)[-2:]]),
    )


def _chain(message: AuthenticatedMessage) -> list[tuple[bytes, bytes]]:
    """What message signature and seal of each set cover, by instance."""
    found: list[tuple[bytes, bytes]] = []
    before = b""
    for arc_set in read_chain(message).sets:
        aar, ams, arc_seal = arc_set.fields
        parsed = parse_arc_message_signature(parse_tag_list(ams.value))
        parsed_seal = parse_arc_seal(parse_tag_list(arc_seal.value))
        before += aar.relaxed + ams.relaxed
        found.append((_covered(message, ams, parsed), parsed.signature))
        found.append((before + relaxed_field(b"arc-seal", parsed_seal.unsigned_value), parsed_seal.signature))
        before += arc_seal.relaxed
    return found


def _covered(message: AuthenticatedMessage, field: SentField, signature: MessageSignature) -> bytes:
    algorithm = signature.header_canonicalization
    if algorithm is Canonicalization.SIMPLE:
        own = simple_field(field.raw_name + b":" + signature.unsigned_value)
    else:
        own = relaxed_field(field.name, signature.unsigned_value)
    return message.header_data(signature.header_names, algorithm) + own


def _sealed(message: AuthenticatedMessage, case: Case, key: RSAPrivateKey) -> AuthenticatedMessage:
    now, resolver = int(time.time()), _resolver(key)
    sealer = Sealer(authserv_id=AUTHSERV_ID, domain=SEALING_DOMAIN, selector=SELECTOR, key=SigningKey(key))
    judged = message.with_top(results_field(case.state))
    made = seal(judged, verify_signatures(judged, resolver, now=now)[1], sealer, now=now)
    assert not isinstance(made, NotSealed)
    return judged.with_top(*[header.raw for header in made.headers])


def _resolver(key: RSAPrivateKey) -> Any:
    return StubDns(zone(key))


def _canonical_body(body: bytes) -> bytes:
    pieces: list[bytes] = []
    canonicalizer = BodyCanonicalizer(Canonicalization.RELAXED, pieces.append, wire=False)
    canonicalizer.update(body)
    canonicalizer.finish()
    return b"".join(pieces)
