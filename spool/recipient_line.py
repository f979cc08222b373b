"""Recipient lines of ``-H``, in all four forms that Exim has written.

Like Exim's reader (spool_in.c) this works from the end of the line, since an address
may hold spaces: trailing digits, then the byte before them names the form.

Diagnostics: SpoolFormatError for a line whose lengths do not fit it.
"""

from __future__ import annotations

import re
from typing import Final

from .envelope import Recipient
from .spool_text import SpoolText

_TAIL: Final = frozenset(b"0123456789, #")
_EXIM_3: Final = re.compile(rb"\s*\d{1,9},(-?\d{1,9})(?!\d)")
_EARLY_EXIM_4: Final = re.compile(rb"\d{0,9}")
_TYPE_BITS: Final = frozenset((b"1", b"2", b"3"))
_PAIR: Final = re.compile(rb"([0-9]{1,9}),(-?[0-9]{1,9})")
_LONGEST_OLD_FORM: Final = 65000
_PAIR_BYTES: Final = b"0123456789,-"


def parse_recipient(text: SpoolText, start: int, raw: bytes) -> Recipient:
    """The recipient in the line raw, which stands at start of text.

    Forms: ``address``; ``address pno`` (early Exim 4); ``address d,pno,d`` (Exim 3);
    ``address [orcpt olen,flags] [errors_to elen,pno]#bits``. Of ``#1`` and ``#2`` the
    meaning is taken, where Exim's own reader since 4.86 loses a byte or the flags.
    """
    line = raw[:-1]
    if not line:
        raise text.wrong(start, "a recipient")
    if line[-1] not in _TAIL:
        return Recipient(address=line, raw=raw)
    before = line.rstrip(b"0123456789")
    if not before:
        raise text.wrong(start, "a recipient with an address")
    mark = before[-1:]
    if mark == b"#":
        return _parse_typed(text, start, raw, before[:-1], line[len(before) :])
    if mark == b",":
        rest = before.rstrip(b"0123456789,")
        if not rest:
            raise text.wrong(start, "a recipient with an address")
        if not rest.endswith(b" "):
            return Recipient(address=line, raw=raw)
        numbers = _EXIM_3.match(line, len(rest))
        return _made(text, start, rest[:-1], raw, parent=int(numbers[1]) if numbers else -1)
    if mark == b" ":
        digits = line[len(before) :]
        if _EARLY_EXIM_4.fullmatch(digits) is None:
            raise text.wrong(start + len(before), "the index of a parent")
        return _made(text, start, before[:-1], raw, parent=int(digits or b"-1"))
    return Recipient(address=line, raw=raw)


def _made(text: SpoolText, start: int, address: bytes, raw: bytes, *, parent: int) -> Recipient:
    _refuse_overlong(text, start, raw)
    if not address:
        raise text.wrong(start, "a recipient with an address")
    return Recipient(address=address, parent=parent, raw=raw)


def _refuse_overlong(text: SpoolText, start: int, raw: bytes) -> None:
    # In the #3 form, which alone is written, the line gets longer.
    if len(raw) > _LONGEST_OLD_FORM:
        raise text.wrong(start, f"an old form of recipient of at most {_LONGEST_OLD_FORM} bytes")


def _parse_typed(text: SpoolText, start: int, raw: bytes, rest: bytes, bits: bytes) -> Recipient:
    if bits not in _TYPE_BITS:
        raise text.wrong(start + len(rest), "#1, #2 or #3 at the end of a recipient")
    if bits != b"3":
        _refuse_overlong(text, start, raw)
    errors_to, parent, orcpt, dsn_flags = b"", -1, b"", 0
    if bits != b"2":
        rest, errors_to, parent = _split_counted(text, start, rest, "errors_to length,parent")
    if bits != b"1":
        rest, orcpt, dsn_flags = _split_counted(text, start, rest, "orcpt length,flags")
    if not rest:
        raise text.wrong(start, "a recipient with an address")
    return Recipient(address=rest, orcpt=orcpt, dsn_flags=dsn_flags, errors_to=errors_to, parent=parent, raw=raw)


def _split_counted(text: SpoolText, start: int, rest: bytes, what: str) -> tuple[bytes, bytes, int]:
    """Cut `` string length,number`` from the end of rest: (what is before, string, number)."""
    before = rest.rstrip(_PAIR_BYTES)
    pair = _PAIR.fullmatch(rest, len(before))
    if pair is None or not before.endswith(b" "):
        raise text.wrong(start + len(before), f"{what} after a space")
    length = int(pair[1])
    cut = len(before) - 1 - length
    if cut < 1 or before[cut - 1 : cut] != b" ":
        raise text.wrong(start + len(before), f"{what} with the length of the string before it")
    return before[: cut - 1], before[cut:-1], int(pair[2])
