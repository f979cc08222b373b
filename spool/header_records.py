"""The header records of ``-H``: length, type letter, space, text; one after the other up to the end.

Diagnostics: SpoolFormatError where Exim's reader would give up (spool_in.c).
"""

from __future__ import annotations

import re
from typing import Final

from .envelope import Header
from .expressions import each_number
from .spool_text import SpoolText

_RECORD_START: Final = re.compile(rb"([0-9]{1,9}+)(?![0-9])(.)\s*", re.DOTALL)
_PREFIX_LENGTH: Final = 5

#: Records as Exim writes them, of up to 999 bytes: ``%03d%c `` and that many bytes. Exim skips white space before the
#: text, so one that seems to begin with it starts elsewhere: that is for _read_record().
_COMMON_RECORDS: Final = re.compile(
    rb"(?>(?:(?=[0-9]{3}[^0-9] \S)%b)+)" % each_number(3, lambda length: b".{%d}" % (len(b"P ") + length)), re.DOTALL
)
_LENGTHS: Final = {b"%03d" % length: length for length in range(1000)}
_FLAGS: Final = tuple(map(chr, range(256)))  #: a type letter by its byte


def verify_headers(text: SpoolText, position: int) -> list[int]:
    """Where records stand that are unlike _COMMON_RECORDS, if from position on records fill the file exactly.

    Only follows the lengths; read_headers() makes the values.
    """
    data, end = text.data, len(text.data)
    uncommon: list[int] = []
    while position < end:
        common = _COMMON_RECORDS.match(data, position)
        if common is not None:
            position = common.end()
        else:
            uncommon.append(position)
            _, position = _read_record(text, position)
    return uncommon


def read_headers(text: SpoolText, position: int, uncommon: list[int]) -> tuple[Header, ...]:
    """The header records from position to the end of the file, where verify_headers() found these uncommon."""
    data = text.data
    headers: list[Header] = []
    for stop in (*uncommon, len(data)):
        while position < stop:
            flag, start = _FLAGS[data[position + 3]], position + _PREFIX_LENGTH
            position = start + _LENGTHS[data[position : position + 3]]
            headers.append(Header(flag, data[start:position]))
        if position < len(data):
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
    lead = data[position:start]
    return Header(flag, data[start:end], b"" if lead == b"%03d%c " % (length, ord(flag)) else lead), end
