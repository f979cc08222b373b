"""Making a signature field: what DKIM and ARC signing share.

A field is written with a stand-in for ``b=`` of the right length, read back by the same
parser that verifiers use, hashed, signed, and written again: what is signed is by
construction what is sent, folds and all.

Diagnostics: check_names() raises ConfigError; signing raises nothing but OSError of reading the body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ...errors import ConfigError
from .keys import SigningKey
from .message import AuthenticatedMessage
from .signature import MessageSignature, is_domain, is_selector
from .signature_check import signed_digest
from .signature_text import encode_base64, fold_tags

#: Exim's list of what a signature covers (pdkim.h), each field that is there.
DEFAULT_SIGNED_HEADERS: Final = (
    "From", "Sender", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "MIME-Version", "Content-Type",
    "Content-Transfer-Encoding", "Content-ID", "Content-Description", "Resent-Date", "Resent-From", "Resent-Sender",
    "Resent-To", "Resent-Cc", "Resent-Message-ID", "In-Reply-To", "References", "List-Id", "List-Help",
    "List-Unsubscribe", "List-Subscribe", "List-Post", "List-Owner", "List-Archive",
)  # fmt: skip

_HEADER_NAME: Final = re.compile(r"[!-9;-~]+")


def check_names(domain: str, selector: str, headers: Iterable[str]) -> None:
    """ConfigError where these can't stand in ``d=``, ``s=`` and ``h=``."""
    if not (domain.isascii() and is_domain(domain.encode())):
        raise ConfigError(f"not a domain name: {domain!r}", key="domain")
    if not (selector.isascii() and is_selector(selector.encode())):
        raise ConfigError(f"not a selector: {selector!r}", key="selector")
    for name in headers:
        if _HEADER_NAME.fullmatch(name) is None or ";" in name:
            raise ConfigError(f"not a header field name: {name!r}", key="sign_headers")


Tags = Sequence[tuple[bytes, bytes]]


def signed_names(
    message: AuthenticatedMessage, headers: Iterable[str], oversigned: Iterable[str] = ()
) -> tuple[bytes, ...]:
    """``h=`` for these field names: each as often as it is in message, oversigned ones once more.

    Once more means that a field of that name added later breaks the signature
    (RFC 6376 section 8.15).
    """
    once_more = {name.lower().encode() for name in oversigned}
    names: list[bytes] = []
    for name in dict.fromkeys(header.lower().encode() for header in headers):
        names.extend([name] * (len(message.positions(name)) + (name in once_more)))
    return tuple(names)


def sign_field(
    name: bytes, tags: Tags, key: SigningKey, digest_of: Callable[[bytes], bytes], *, fold_base64: bool = True
) -> bytes:
    """The folded value of a field with its signature in ``b=``.

    tags is all the tags in order, that of ``b`` empty; digest_of is given the value with
    a stand-in signature and says what to sign.
    """
    stand_in = fold_tags(name, _with_signature(tags, b"\0" * key.signature_size), fold_base64=fold_base64)
    signature = key.sign(digest_of(stand_in))
    return fold_tags(name, _with_signature(tags, signature), fold_base64=fold_base64)


def sign_message_field(
    message: AuthenticatedMessage,
    name: bytes,
    tags: Tags,
    key: SigningKey,
    parse: Callable[[bytes], MessageSignature],
    *,
    fold_base64: bool = True,
) -> bytes:
    """The value of a DKIM-Signature or ARC-Message-Signature field."""

    def digest_of(value: bytes) -> bytes:
        return signed_digest(message, name, parse(b" " + value))  # Header.make() writes that space

    return sign_field(name, tags, key, digest_of, fold_base64=fold_base64)


def _with_signature(tags: Tags, signature: bytes) -> list[tuple[bytes, bytes]]:
    return [(tag, encode_base64(signature) if tag == b"b" else value) for tag, value in tags]
