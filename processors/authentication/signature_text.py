"""Writing signature fields: tag lists folded into header lines.

The folds are LF + space, as the spool stores header fields, with up to 72 bytes after.
A fold only ever stands where white space may stand. In base64 and between the names of
``h=`` it is part of what later signatures cover: they see a space there.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from typing import Final

#: dkim-safe-char, less "@".
_SAFE: Final = re.compile(rb"[!-:<>?A-~]")
_LINE_LENGTH: Final = 72
BASE64_TAGS: Final = frozenset({b"b", b"bh"})
_FOLD: Final = b"\n "


def encode_base64(data: bytes) -> bytes:
    """Base64 on one line."""
    return binascii.b2a_base64(data, newline=False)


def fold_tags(name: bytes, tags: Iterable[tuple[bytes, bytes]], *, fold_base64: bool = True) -> bytes:
    """The value of a field called name: ``tag=value; tag=value``, lines below 78 columns where that is possible.

    Between tags stands ``; `` or ``;`` and a fold; within a value, folds stand after the
    colons of ``h=`` and anywhere in base64, unless fold_base64 is false.
    """
    lines: list[bytes] = []
    line = b""
    room = _LINE_LENGTH - len(name) - 1  # the first line shares with the name
    items = list(tags)
    for number, (tag, value) in enumerate(items):
        text = tag + b"=" + value + (b";" if number < len(items) - 1 else b"")
        if line and len(line) + 1 + len(text) <= room:
            line += b" " + text
            continue
        if line:
            lines.append(line)
            room = _LINE_LENGTH
        *full, line = [text] if tag in BASE64_TAGS and not fold_base64 else _split_value(text, tag, room)
        if full:
            lines.extend(full)
            room = _LINE_LENGTH
    return _FOLD.join([*lines, line])


def _split_value(text: bytes, tag: bytes, room: int) -> list[bytes]:
    """One tag cut into lines, the first of at most room bytes."""
    if len(text) <= room:
        return [text]
    if tag in BASE64_TAGS:
        rest = text[room:]
        return [text[:room], *[rest[start : start + _LINE_LENGTH] for start in range(0, len(rest), _LINE_LENGTH)]]
    if tag == b"h":
        lines = [b""]
        names = text.split(b":")
        for number, name in enumerate(names):
            piece = name + (b":" if number < len(names) - 1 else b"")
            if lines[-1] and len(lines[-1]) + len(piece) > (room if len(lines) == 1 else _LINE_LENGTH):
                lines.append(b"")
            lines[-1] += piece
        return lines
    return [text]


def encode_identity(identity: str) -> bytes:
    """An AUID for ``i=``: the local part in DKIM's quoted-printable (RFC 6376 2.11), the domain as it is."""
    local, _, domain = identity.rpartition("@")
    encoded = b"".join(
        bytes((octet,)) if _SAFE.fullmatch(bytes((octet,))) else b"=%02X" % octet for octet in local.encode()
    )
    return encoded + b"@" + domain.encode()
