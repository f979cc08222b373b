"""Writing signature fields: tag lists folded into header lines.

The folds are LF + TAB, as the spool stores header fields. A fold only ever stands where
white space may stand, and the relaxed form of a list does not depend on the folds.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Final

_LINE_LENGTH: Final = 76
_FOLD: Final = b"\n\t"


def encode_base64(data: bytes) -> bytes:
    """Base64 on one line."""
    return binascii.b2a_base64(data, newline=False)


def fold_tags(name: bytes, tags: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The value of a field called name: ``tag=value; tag=value``, lines below 78 columns where that can be.

    Between tags stands ``; `` or ``;`` and a fold; within a value, folds stand after the
    colons of ``h=`` and anywhere in base64.
    """
    lines: list[bytes] = []
    line = b""
    column = len(name) + 2
    items = list(tags)
    for number, (tag, value) in enumerate(items):
        text = tag + b"=" + value + (b";" if number < len(items) - 1 else b"")
        if line and column + 1 + len(text) <= _LINE_LENGTH:
            line += b" " + text
            column += 1 + len(text)
            continue
        if line:
            lines.append(line)
            column = 8  # a TAB
        pieces = _split_value(text, tag, _LINE_LENGTH - column)
        lines.extend(pieces[:-1])
        line = pieces[-1]
        column = (8 if lines else column) + len(line)
    lines.append(line)
    return _FOLD.join(lines)


def _split_value(text: bytes, tag: bytes, room: int) -> list[bytes]:
    """One tag cut into lines, the first of at most room bytes."""
    if len(text) <= room:
        return [text]
    if tag in {b"b", b"bh"}:
        rest = text[room:]
        width = _LINE_LENGTH - 8
        return [text[:room], *[rest[start : start + width] for start in range(0, len(rest), width)]]
    if tag == b"h":
        lines = [b""]
        names = text.split(b":")
        for number, name in enumerate(names):
            piece = name + (b":" if number < len(names) - 1 else b"")
            if lines[-1] and len(lines[-1]) + len(piece) > (room if len(lines) == 1 else _LINE_LENGTH - 8):
                lines.append(b"")
            lines[-1] += piece
        return lines
    return [text]
