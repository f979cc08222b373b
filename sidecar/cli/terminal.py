"""Bytes from messages on a terminal: never an escape sequence, never markup.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import unicodedata
from typing import Final

# Control, format (bidirectional marks among them), surrogate, private, unassigned, separators of lines.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def escape(text: str | bytes) -> str:
    r"""The text with everything that could steer a terminal or forge a line written as an escape.

    Bytes are taken as UTF-8; what is not UTF-8 becomes ``\xNN``.
    """
    decoded = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
    if decoded.isascii() and decoded.isprintable():
        return decoded
    return "".join(
        character if unicodedata.category(character) not in _UNSAFE else ascii(character)[1:-1] for character in decoded
    )
