"""Bytes from messages on a terminal: never an escape sequence, never markup; sizes and ages as Exim prints them.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import Final

from rich.console import Console
from rich.text import Text

# Control, format (bidirectional marks among them), surrogate, private, unassigned, separators of lines.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_UNBROKEN: Final = 4096


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


def escape_lines(text: str | bytes) -> str:
    """As escape(), with LF and tab left as they are: for a text that may take several lines."""
    if isinstance(text, bytes):
        return "\n".join(escape_lines(line.decode("utf-8", "backslashreplace")) for line in text.split(b"\n"))
    return "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.split("\n"))


def plain(text: str | bytes, style: str = "") -> Text:
    """The text for rich, escaped, and never taken for markup."""
    return Text(escape(text), style=style)


def output() -> Console:
    """Standard output: coloured on a terminal, and no line of it is broken where it is not one."""
    width = None if sys.stdout.isatty() else _UNBROKEN
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def size(count: int) -> str:
    """Bytes in five columns, as ``exim -bp`` prints them (string_format_size in string.c)."""
    if count <= 0:
        return "     "
    if count < 1024:
        return f"{count:5d}"
    if count < 10 * 1024:
        return f"{count / 1024:4.1f}K"
    if count < 1024 * 1024:
        return f"{(count + 512) // 1024:4d}K"
    if count < 10 * 1024 * 1024:
        return f"{count / (1024 * 1024):4.1f}M"
    return f"{(count + 512 * 1024) // (1024 * 1024):4d}M"


def age(seconds: int) -> str:
    """Time on the queue in three columns, as ``exim -bp`` prints it (queue.c).

    Minutes; more than 90 of them as hours; more than 72 of these as days.
    """
    minutes = int(seconds / 60)
    if minutes <= 90:
        return f"{minutes:2d}m"
    hours = (minutes + 30) // 60
    return f"{(hours + 12) // 24:2d}d" if hours > 72 else f"{hours:2d}h"
