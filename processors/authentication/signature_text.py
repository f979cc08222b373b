"""Writing signature fields: tag lists folded into header lines.

The folds are LF + space, as the spool stores header fields, with up to 72 bytes after.
A fold only ever stands where white space may stand. In base64 and between the names of
``h=`` it is part of what later signatures cover: they see a space there.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

#: dkim-safe-char (RFC 6376 2.11), less "@".
_SAFE: Final = re.compile(rb"[!-:<>?A-~]")
_LINE_LENGTH: Final = 72
_FOLD: Final = b"\n "

Tags = Sequence[tuple[bytes, bytes]]


def encode_base64(data: bytes) -> bytes:
    """Base64 on one line."""
    return binascii.b2a_base64(data, newline=False)


def unfolded(text: bytes) -> bytes:
    """The relaxed form (RFC 6376 3.4.2) of text that was laid out here: beside single spaces it has folds alone."""
    return text.replace(_FOLD, b" ")


class UnsignedText(Struct, frozen=True):
    """A folded tag list, cut where the value of its ``b=`` goes."""

    before: bytes
    after: bytes

    @property
    def value(self) -> bytes:
        """The text as it is signed: with ``b=`` empty (RFC 6376 3.7)."""
        return self.before + self.after

    def with_signature(self, signature: bytes, *, fold_base64: bool = True) -> bytes:
        """The text with signature in ``b=``, in lines or in one."""
        text = encode_base64(signature)
        if fold_base64:
            first = _LINE_LENGTH - len(b"b=")
            rest = [text[start : start + _LINE_LENGTH] for start in range(first, len(text), _LINE_LENGTH)]
            text = _FOLD.join([text[:first], *rest])
        return self.before + text + self.after


def fold_tags(name: bytes, before: Tags, after: Tags) -> UnsignedText:
    """Lay out the value of a field called name: the tags before ``b=``, itself on a line of its own, those after.

    No value may hold white space.
    Lines stay below 78 columns where that is possible. Between tags stands ``; `` or
    ``;`` and a fold; a long ``h=`` is folded after its colons.
    """
    head = _fold(before, _LINE_LENGTH - len(name) - 1)  # the first line shares with the name
    tail = b";" + _FOLD + _fold(after, _LINE_LENGTH) if after else b""
    return UnsignedText(head + b";" + _FOLD + b"b=", tail)


def _fold(tags: Tags, room: int) -> bytes:
    """The tags in lines, the first of at most room bytes where that is possible."""
    lines: list[bytes] = []
    line = b""
    for tag, value in tags:
        word = tag + b"=" + value
        if not line:
            line = word
        elif len(line) + 2 + len(word) < room:
            line += b"; " + word
        else:
            lines.append(line + b";")
            line, room = word, _LINE_LENGTH
        if tag == b"h" and len(value) >= _LINE_LENGTH - 2:
            while len(line) >= room:
                # Behind the last colon that leaves the line short enough, else behind the first there is.
                end = line.rfind(b":", 0, room - 1) + 1 or line.find(b":") + 1
                if not end:
                    break
                lines.append(line[:end])
                line, room = line[end:], _LINE_LENGTH
    lines.append(line)
    return _FOLD.join(lines)


def encode_identity(identity: str) -> bytes:
    """An AUID for ``i=``: the local part in DKIM's quoted-printable (RFC 6376 2.11), the domain as it is."""
    local, _, domain = identity.rpartition("@")
    octets = [bytes((octet,)) for octet in local.encode()]
    return (
        b"".join([octet if _SAFE.fullmatch(octet) else b"=%02X" % octet[0] for octet in octets])
        + b"@"
        + domain.encode()
    )
