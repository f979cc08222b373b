"""xtext (RFC 3461 section 4): how SMTP parameters and XCLIENT carry any byte.

Diagnostics: decode_xtext() raises ValueError for what is no xtext; encoding never fails.
"""

from __future__ import annotations

import re
from typing import Final

_PLAIN: Final = re.compile(rb"[!-*,-<>-~]*")
_OTHERS: Final = re.compile(rb"[^!-*,-<>-~]")
_XTEXT: Final = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEX: Final = re.compile(rb"\+([0-9A-F]{2})")


def encode_xtext(value: bytes) -> bytes:
    """Value with ``+``, ``=`` and all that is not printable ASCII as ``+HH``."""
    if _PLAIN.fullmatch(value):
        return value
    return _OTHERS.sub(lambda found: b"+%02X" % found[0][0], value)


def decode_xtext(text: bytes) -> bytes:
    """The bytes that text stands for."""
    if not _XTEXT.fullmatch(text):
        raise ValueError(f"not xtext: {text[:80]!r}")
    return _HEX.sub(lambda found: bytes.fromhex(found[1].decode()), text)
