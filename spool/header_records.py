"""The header records of ``-H``: length, type letter, space, text; one after the other up to the end.

Diagnostics: SpoolFormatError where Exim's reader would give up (spool_in.c).
"""

from __future__ import annotations

import re
from typing import Final

from .envelope import Header
from .spool_text import SpoolText

_RECORD_START: Final = re.compile(rb"([0-9]{1,9}+)(?![0-9])(.)\s*", re.DOTALL)
_RECORD_FLAGS: Final = " FTCBIPRS*"
_PREFIX_LENGTH: Final = 5
#: Exim skips white space before the text, so one that seems to begin with it starts elsewhere.
_SPACE: Final = 0x20

#: ``215P `` -> ("P", 215). Filled as prefixes are met; at most 999 * 10 of them exist.
_canonical_prefixes: dict[bytes, tuple[str, int]] = {}
#: ``215P R`` -> 220, the whole record: the prefix with the first byte of a text that does not begin with white space.
_canonical_lengths: dict[bytes, int] = {}
_MOST_LENGTHS: Final = 16384


def verify_headers(data: bytes, position: int, file: str) -> None:
    """Nothing if the records from position on fill data exactly, else SpoolFormatError naming file.

    Only follows the lengths; read_headers() makes the values.
    """
    lengths = _canonical_lengths
    start, end, key_length = position, len(data), _PREFIX_LENGTH + 1
    # A prefix at the very end stands alone.
    last = end - _PREFIX_LENGTH
    while position < last:
        try:
            position += lengths[data[position : position + key_length]]
        except KeyError:
            _, position = _read_record(SpoolText(data, file), position)
    if position != end:
        read_headers(SpoolText(data, file), start)


def read_headers(text: SpoolText, position: int) -> tuple[Header, ...]:
    """The header records up to the end of the file."""
    data, prefixes = text.data, _canonical_prefixes
    end = len(data)
    headers: list[Header] = []
    while position < end:
        start = position + _PREFIX_LENGTH
        prefix = prefixes.get(data[position:start])
        if prefix is not None:
            flag, length = prefix
            stop = start + length
            if stop <= end and data[start] > _SPACE:
                headers.append(Header(flag, data[start:stop]))
                position = stop
                continue
        header, position = _read_record(text, position)
        headers.append(header)
    return tuple(headers)


def _read_record(text: SpoolText, position: int) -> tuple[Header, int]:
    """One header record as Exim's ``fscanf("%d%c ")`` takes it."""
    data = text.data
    found = _RECORD_START.match(data, position)
    if found is None:
        raise text.wrong(position, "a header record: length, type, space")
    length, flag, start = int(found[1]), found[2].decode("latin-1"), found.end()
    end = start + length
    if end > len(data):
        raise text.wrong(position, f"a header of {length} bytes")
    raw, lead = data[start:end], data[position:start]
    if lead == b"%03d%c " % (length, ord(flag)):
        if 0 < length < 1000 and flag in _RECORD_FLAGS:
            _canonical_prefixes[lead] = (flag, length)
            if len(_canonical_lengths) >= _MOST_LENGTHS:
                _canonical_lengths.clear()
            _canonical_lengths[data[position : start + 1]] = _PREFIX_LENGTH + length
        lead = b""
    return Header(flag, raw, lead), end
