"""What holds for the ``-H`` codec whatever the bytes are: for the fuzzer, and for replaying what it found.

Diagnostics: check() raises AssertionError where the law is broken; any other exception is a finding, too.
"""

from __future__ import annotations

import re
from unittest.mock import patch

from respool.errors import SpoolFormatError
from respool.spool import header_file, header_records
from respool.spool.body import BytesBody
from respool.spool.check import check_envelope
from respool.spool.editing import modern_recipients, with_body
from respool.spool.envelope import Envelope
from respool.spool.journal import merge_journal

# What a mutator finds only by luck; a byte of the input below len() stands for one of these (see expand()).
START = b"1xV9D2-0007Yr-05-H\nroot 0 0\n<a@b.ex>\n1795360228 0\n"
TOKENS = (
    START, b"XX\n", b"YN ", b"NY ", b"NN ", b"-aclm _x ", b"--(pgsql)aclc 0 ", b"-acl 3 ", b"-frozen ", b"-local\n",
    b"1\n", b"r@x.ex\n", b" 0,2  0,-1#3\n", b" e@x 3,0#1\n", b" o 1,4#2\n", b" 0,1,0\n", b"\n\n", b"005  X: y\n",
    b"004P ", b"-host_address [1.2.3.4]:25\n", b"-", b"--(",
)  # fmt: skip


def expand(data: bytes) -> bytes:
    """The input through an alphabet of likely pieces."""
    return b"".join(TOKENS[byte - 0x80] if 0 <= byte - 0x80 < len(TOKENS) else bytes((byte,)) for byte in data)


NOTHING = re.compile(b"(?!)")


def parse_step_by_step(data: bytes, *, file: str) -> Envelope:
    """parse_header_file() when nothing is common: each line and each record by the reader that follows Exim."""
    with (
        patch.object(header_file, "_COMMON_ENVELOPE", NOTHING),
        patch.object(header_records, "_COMMON_RECORDS", NOTHING),
    ):
        return header_file.parse_header_file(data, file=file)


def check(data: bytes) -> None:
    """One input: the law, and that nothing done with a value raises."""
    try:
        envelope = header_file.parse_header_file(data, file="fuzz")
    except SpoolFormatError as error:
        try:
            parse_step_by_step(data, file="fuzz")
        except SpoolFormatError as exact:
            if str(exact) != str(error):
                raise AssertionError("step by step it is refused differently") from exact
        else:
            raise AssertionError("step by step it is accepted")
        return
    if header_file.render_header_file(envelope) != data:
        raise AssertionError("not the same bytes")
    if envelope != parse_step_by_step(data, file="fuzz"):
        raise AssertionError("step by step it reads as another")
    check_envelope(envelope, file="fuzz", now=0)
    edited = with_body(merge_journal(modern_recipients(envelope), b"r@x.ex\n"), BytesBody(b"a\n"))
    again = header_file.parse_header_file(header_file.render_header_file(edited), file="fuzz")
    if again != edited:
        raise AssertionError("an edited envelope reads back as another")
