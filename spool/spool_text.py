"""The bytes of a spool file while they are read, and errors that point into them.

Diagnostics: wrong() makes the SpoolFormatError for the reader to raise; line() and
number() raise it themselves.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from ..errors import SpoolFormatError

_FOUND_LENGTH: Final = 40
_SAFE_TO_SHOW: Final = re.compile(rb"[ -~]*")


class SpoolText(Struct, frozen=True, gc=False):
    """The content of one spool file; file is the name that errors carry."""

    data: bytes
    file: str

    def wrong(self, offset: int, expected: str) -> SpoolFormatError:
        """The error for the byte at offset, with line and column counted now."""
        data = self.data
        line_start = data.rfind(b"\n", 0, offset) + 1
        return SpoolFormatError(
            file=self.file,
            line=data.count(b"\n", 0, offset) + 1,
            column=offset - line_start + 1,
            expected=expected,
            found=_shown(data[offset : offset + _FOUND_LENGTH + 1]),
        )

    def line(self, start: int, limit: int, what: str) -> bytes:
        """The line at start with its LF; an error if it is missing or longer than limit bytes."""
        end = self.data.find(b"\n", start, start + limit)
        if end < 0:
            if start >= len(self.data):
                raise self.wrong(start, what)
            raise self.wrong(start, f"{what}, a line of at most {limit} bytes with its LF")
        return self.data[start : end + 1]


def _shown(found: bytes) -> str:
    if not found:
        return "the end of the file"
    first_line, line_feed, _ = found.partition(b"\n")
    shown = first_line or line_feed
    cut = len(shown) > _FOUND_LENGTH
    return ascii(shown[:_FOUND_LENGTH])[1:] + ("..." if cut else "")
