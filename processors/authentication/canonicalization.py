"""Canonicalisation of header fields and bodies, simple and relaxed (RFC 6376 section 3.4).

Header fields come in as the spool holds them, with LF line ends; bodies come in chunks
of either line end. Output is always the canonical form with CRLF. Work is done by
bytes.replace and friends, which scan in C and copy only where there is something to do.

Diagnostics: raises nothing; every byte string has a canonical form.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final

Sink = Callable[[bytes], object]

_WSP_RUN: Final = re.compile(rb"[ \t]+")
# Octets are looked for by number: for a bytes object ``in`` raises and drops an exception first.
_CR, _VT, _FF, _SP = b"\r\v\f "
#: Held-back line ends are given out in pieces of this many, so that a body of nothing but
#: empty lines followed by one letter costs no memory.
_LINE_ENDS_AT_ONCE: Final = 32 * 1024
#: Blocks without a space, such as those of attachments in base64, are known by one fast scan for it.
_BLOCK: Final = 16 * 1024


class Canonicalization(Enum):
    """The two algorithms, by their names in ``c=``."""

    SIMPLE = b"simple"
    RELAXED = b"relaxed"

    __hash__ = object.__hash__  # a member is one object; Enum's own is a function in Python


def relaxed_value(value: bytes) -> bytes:
    """The value of a field, unfolded, white space reduced to single spaces, ends stripped (RFC 6376 3.4.2)."""
    if _CR in value or _VT in value or _FF in value:
        # bytes.split() takes these for white space too; to RFC 6376 they are content.
        return _WSP_RUN.sub(b" ", value.replace(b"\n", b"")).strip(b" ")
    return b" ".join(value.split())


def relaxed_field(name: bytes, value: bytes) -> bytes:
    """One field in relaxed form, without the final CRLF; name is in lower case and stripped already."""
    return name + b":" + relaxed_value(value)


def simple_field(raw: bytes) -> bytes:
    """One raw field (LF line ends) in simple form, with its CRLFs (RFC 6376 3.4.1)."""
    return raw.replace(b"\n", b"\r\n")


class BodyCanonicalizer:
    """Canonicalises a body that arrives in chunks and passes the result on to sink.

    wire says that chunks have CRLF line ends; otherwise each LF is one. A CR or LF that
    is not part of a line end is content. Memory stays below a few chunks whatever the
    body holds: of white space and empty lines that may yet have to be dropped only the
    fact and the number are kept. Use update() for every chunk, then finish() once.
    """

    __slots__ = ("_held", "_line_end", "_line_ends", "_relaxed", "_seen_content", "_sink", "_wire")

    def __init__(self, algorithm: Canonicalization, sink: Sink, *, wire: bool) -> None:
        self._relaxed = algorithm is Canonicalization.RELAXED
        self._wire = wire
        self._line_end = b"\r\n" if wire else b"\n"
        self._sink = sink
        self._held = b""  # at most b" \r": what the next chunk may turn into a line end
        self._line_ends = 0  # line ends not yet given out: the end of the body may follow
        self._seen_content = False

    def update(self, chunk: bytes) -> None:
        """Take the next chunk."""
        if self._relaxed and len(chunk) > _BLOCK:
            for start in range(0, len(chunk), _BLOCK):
                self._take(chunk[start : start + _BLOCK])
        else:
            self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        data = self._held + chunk if self._held else chunk
        self._held = b""
        if self._relaxed:
            data = _reduce_white_space(data, self._line_end)
        if self._wire and data.endswith(b"\r"):
            data = data[:-1]
            self._held = b"\r"
        if self._relaxed and data.endswith(b" "):
            # White space before a line end goes; whether a line end follows is not known yet.
            data = data[:-1]
            self._held = b" " + self._held
        self._pass_on(data)

    def finish(self) -> None:
        """The body ends here."""
        # A lone CR at the very end is content, and so keeps the space before it.
        held, self._held = self._held, b""
        self._pass_on(b"" if held == b" " else held)
        # RFC 6376 3.4.3: an empty body is one CRLF; 3.4.4: relaxed leaves it empty.
        if self._seen_content or not self._relaxed:
            self._sink(b"\r\n")

    def _pass_on(self, data: bytes) -> None:
        content, line_ends = _split_final_line_ends(data, wire=self._wire)
        if content:
            while self._line_ends:
                count = min(self._line_ends, _LINE_ENDS_AT_ONCE)
                self._sink(b"\r\n" * count)
                self._line_ends -= count
            self._sink(content if self._wire else content.replace(b"\n", b"\r\n"))
            self._seen_content = True
        self._line_ends += line_ends


def _reduce_white_space(data: bytes, line_end: bytes) -> bytes:
    """Runs of white space as one space each, none before a line end."""
    data = data.replace(b"\t", b" ")
    if _SP not in data:
        return data
    before = -1
    while before != len(data):  # each round halves the runs
        before = len(data)
        data = data.replace(b"  ", b" ")
    return data.replace(b" " + line_end, line_end)


def _split_final_line_ends(data: bytes, *, wire: bool) -> tuple[bytes, int]:
    """Data without its final line ends, and how many they were."""
    if not wire:
        content = data.rstrip(b"\n")
        return content, len(data) - len(content)
    content = data.rstrip(b"\r\n")
    # The tail may hold lone CRs and LFs, which are content. No NUL is in it, so NUL can stand for CRLF.
    tail = data[len(content) :].replace(b"\r\n", b"\0")
    kept = tail.rstrip(b"\0")
    if kept:
        content += kept.replace(b"\0", b"\r\n")
    return content, len(tail) - len(kept)
