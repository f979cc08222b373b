"""Making DKIM signatures (RFC 6376 section 5, RFC 8301, RFC 8463).

Diagnostics: raises nothing but OSError of reading the body.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ...spool.envelope import Header
from .body_hash import BodyHashRequest
from .canonicalization import Canonicalization
from .keys import SigningKey
from .message import AuthenticatedMessage
from .signature_check import signed_digest
from .signature_text import encode_base64, encode_identity, fold_tags
from .signing import DEFAULT_SIGNED_HEADERS, signed_names

DKIM_NAME: Final = b"DKIM-Signature"

#: Fields of which a second one would change what people see: they can't be added later (RFC 6376 8.15).
DEFAULT_OVERSIGNED_HEADERS: Final = (
    "From",
    "Subject",
    "Date",
    "Message-ID",
    "To",
    "Cc",
    "MIME-Version",
    "Content-Type",
)


class DkimSigner(Struct, frozen=True, kw_only=True):
    """Who signs and how.

    identity is ``i=``, left out where empty; it is ``local@domain`` or ``@domain`` within
    domain. expire_seconds adds ``x=`` that much after ``t=``.
    """

    domain: str
    selector: str
    key: SigningKey
    identity: str = ""
    headers: tuple[str, ...] = DEFAULT_SIGNED_HEADERS
    oversigned: tuple[str, ...] = DEFAULT_OVERSIGNED_HEADERS
    header_canonicalization: Canonicalization = Canonicalization.RELAXED
    body_canonicalization: Canonicalization = Canonicalization.RELAXED
    timestamps: bool = True
    expire_seconds: int | None = None

    @property
    def body_request(self) -> BodyHashRequest:
        """The body hash that this signer will ask for."""
        return BodyHashRequest(self.body_canonicalization)


def sign(message: AuthenticatedMessage, signer: DkimSigner, *, now: float) -> Header:
    """The DKIM-Signature field of signer over message; it goes on top. From is signed whatever headers says."""
    algorithms = signer.header_canonicalization.value + b"/" + signer.body_canonicalization.value
    names = signed_names(message, ("From", *signer.headers), signer.oversigned)
    tags = [
        (b"v", b"1"),
        (b"a", signer.key.algorithm),
        (b"c", algorithms),
        (b"d", signer.domain.encode()),
        (b"s", signer.selector.encode()),
    ]
    if signer.identity:
        tags.append((b"i", encode_identity(signer.identity)))
    if signer.timestamps:
        tags.append((b"t", b"%d" % now))
    if signer.expire_seconds is not None:
        tags.append((b"x", b"%d" % (now + signer.expire_seconds)))
    tags.append((b"h", b":".join(names)))
    tags.append((b"bh", encode_base64(message.body_hash(signer.body_request).digest)))
    text = fold_tags(DKIM_NAME, tags, ())
    # Header.make() writes the space that stands before the value.
    digest = signed_digest(message, DKIM_NAME, b" " + text.value, names, signer.header_canonicalization)
    return Header.make(DKIM_NAME, text.with_signature(signer.key.sign(digest)))
