"""Domain names as they come off the wire: checked, in lower case, in A-labels.

What SPF and DMARC ask DNS about is written by strangers: UTF-8, U-labels, empty and
overlong labels. One function turns it into the form that DNS knows, or says that it
is no domain name.

Diagnostics: raises nothing; ``None`` means "no domain name", and the caller says what
follows from that (SPF none, DMARC permerror).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

#: What DNS looks up for mail: letters, digits, hyphens, and the underscore that some names have.
_ASCII_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_NAME: Final = 253

#: RFC 5892 2.6, the exceptions that are PVALID or depend on context.
_VALID_EXCEPTIONS: Final = frozenset("\u00df\u03c2\u06fd\u06fe\u0f0b\u3007\u00b7\u0375\u05f3\u05f4\u30fb\u200c\u200d")
#: RFC 5892 2.1 LetterDigits, without the upper case that lower() has removed.
_LETTER_DIGITS: Final = frozenset({"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"})


def a_label_domain(name: bytes | str) -> str | None:
    """The domain in lower case and A-labels without a final dot, or None if it is none.

    U-labels are mapped as RFC 5895 says (lower case, NFC) and then held to the derived
    properties of RFC 5892, so that a name with a full stop or slash in disguise is no
    name at all. A single label is a name here; address literals are not.
    """
    if len(name) > 4 * _MAX_NAME:
        return None
    return _a_label_domain(name)


@lru_cache(maxsize=1024)
def _a_label_domain(name: bytes | str) -> str | None:
    if isinstance(name, bytes):
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
    else:
        text = name
    labels = text.removesuffix(".").lower().split(".")
    ascii_labels: list[str] = []
    for label in labels:
        ascii_label = label if label.isascii() else _a_label(label)
        if ascii_label is None or _ASCII_LABEL.fullmatch(ascii_label) is None:
            return None
        ascii_labels.append(ascii_label)
    domain = ".".join(ascii_labels)
    return domain if len(domain) <= _MAX_NAME else None


def _a_label(label: str) -> str | None:
    if len(label) > 63:
        return None
    label = unicodedata.normalize("NFC", label)
    if label[:1] == "-" or label[-1:] == "-" or unicodedata.category(label[0]).startswith("M"):
        return None  # RFC 5891 4.2.3
    for character in label:
        if not _is_valid(character):
            return None
    return "xn--" + label.encode("punycode").decode("ascii")


def _is_valid(character: str) -> bool:
    """True for a code point that a U-label may hold (RFC 5892 3, without its context rules)."""
    if character in _VALID_EXCEPTIONS or (character.isascii() and (character.isalnum() or character == "-")):
        return True
    if unicodedata.category(character) not in _LETTER_DIGITS:
        return False
    # RFC 5892 2.2 Unstable: compatibility forms (full-width letters, ligatures) are disallowed.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
    return folded == character


def domain_or_below(text: str) -> str | None:
    """What a setting names: a domain, or after a leading dot all below one, in A-labels; None where it is neither."""
    name = a_label_domain(text.removeprefix("."))
    return name if name is None or not text.startswith(".") else f".{name}"


def parent_domain(domain: str) -> str:
    """The name without its left-most label; empty for a single label."""
    return domain.partition(".")[2]


def is_at_or_below(domain: str, ancestor: str) -> bool:
    """True if domain is ancestor or one of its subdomains; both in lower case."""
    return domain == ancestor or domain.endswith("." + ancestor)
