"""What DKIM and ARC signing share: which key signs which fields, and which names may stand in a signature.

Diagnostics: ConfigError from the checks and from the parsers of key specifications.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from msgspec import Struct

from ...errors import ConfigError
from .keys import check_key_path
from .message import AuthenticatedMessage, SentField
from .signature import is_domain, is_selector

#: Exim's list of what a signature covers (pdkim.h), each field that is there.
DEFAULT_SIGNED_HEADERS: Final = (
    "From", "Sender", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "MIME-Version", "Content-Type",
    "Content-Transfer-Encoding", "Content-ID", "Content-Description", "Resent-Date", "Resent-From", "Resent-Sender",
    "Resent-To", "Resent-Cc", "Resent-Message-ID", "In-Reply-To", "References", "List-Id", "List-Help",
    "List-Unsubscribe", "List-Subscribe", "List-Post", "List-Owner", "List-Archive",
)  # fmt: skip

#: Of a field that is repeated more often only the lowest are signed: ``h=`` must not grow with what a sender sends.
_MAX_INSTANCES: Final = 50
_HEADER_NAME: Final = re.compile(r"[!-9;-~]+")


class KeySpecification(Struct, frozen=True, kw_only=True):
    """Which key signs, as a line of a table says it. key_file is an absolute path."""

    domain: str
    selector: str
    key_file: str


def parse_key_specification(text: str) -> KeySpecification:
    """Read ``domain : selector : key file``; white space around the parts does not count."""
    check_key_path(text)
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 3:
        raise ConfigError(f"{text[:200]!r} is not 'domain : selector : key file'")
    domain, selector, key_file = parts
    check_names(domain, selector)
    if not key_file.startswith("/"):
        raise ConfigError(f"{key_file[:200]!r} is not the absolute path of a key file")
    return KeySpecification(domain=domain, selector=selector, key_file=key_file)


def parse_key_specifications(text: str) -> list[KeySpecification]:
    """Read several of them, with semicolons between."""
    return [parse_key_specification(one) for one in text.split(";")]


def check_names(domain: str, selector: str) -> None:
    """ConfigError where these can't stand in ``d=`` and ``s=``."""
    if not (domain.isascii() and is_domain(domain.encode())):
        raise ConfigError(f"not a domain name: {domain!r}", key="domain")
    if not (selector.isascii() and is_selector(selector.encode())):
        raise ConfigError(f"not a selector: {selector!r}", key="selector")


def check_header_names(headers: Iterable[str]) -> None:
    """ConfigError where these can't stand in ``h=``."""
    for name in headers:
        if _HEADER_NAME.fullmatch(name) is None or ";" in name:
            raise ConfigError(f"not a header field name: {name!r}", key="sign_headers")


@lru_cache(maxsize=64)
def header_names(headers: tuple[str, ...]) -> tuple[bytes, ...]:
    """Configured field names as ``h=`` has them: lower case, each once."""
    return tuple(dict.fromkeys([header.lower().encode() for header in headers]))


def signed_fields(message: AuthenticatedMessage, headers: tuple[str, ...]) -> list[SentField]:
    """The fields of message that have these names, in the order of ``h=``: of several with one name the lowest first.

    What select() finds for their names.
    """
    fields: list[SentField] = []
    for group in message.groups(header_names(headers)):
        fields += group if len(group) == 1 else group[: -1 - _MAX_INSTANCES : -1]
    return fields


def signed_names(
    message: AuthenticatedMessage, headers: tuple[str, ...], oversigned: tuple[str, ...]
) -> tuple[bytes, ...]:
    """``h=`` for these field names: each as often as it is in message, oversigned ones once more.

    Once more means that a field of that name added later breaks the signature
    (RFC 6376 section 8.15).
    """
    once_more = header_names(oversigned)
    names: list[bytes] = []
    for name in header_names(headers):
        names += [name] * (min(len(message.named(name)), _MAX_INSTANCES) + (name in once_more))
    return tuple(names)
