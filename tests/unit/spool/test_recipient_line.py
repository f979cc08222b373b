"""Recipient lines at the edges of their forms; test_header_file.py has the forms themselves."""

from __future__ import annotations

import pytest

from respool.errors import SpoolFormatError
from respool.spool.envelope import Recipient
from respool.spool.recipient_line import parse_recipient
from respool.spool.spool_text import SpoolText


def read(line: bytes) -> Recipient:
    return parse_recipient(SpoolText(line + b"\n", "f"), 0, line + b"\n")


def refused(line: bytes) -> SpoolFormatError:
    with pytest.raises(SpoolFormatError) as caught:
        read(line)
    return caught.value


@pytest.mark.parametrize(
    "line",
    [b"a@b.ex  0,4#X1", b"a@b.ex X0,3,0", b"a@b.ex 0,3X,0", b"a@b.ex 0,3,X0", b"a@b.ex X5", b"a@b.ex 5X", b"a@b.ex #X"],
)
def test_digits_that_no_form_ends_in_belong_to_the_address(line: bytes) -> None:
    assert read(line) == Recipient(address=line, raw=line + b"\n")


def test_a_parent_that_exim_3_did_not_write_is_none() -> None:
    assert (read(b"a@b.ex ,5").address, read(b"a@b.ex ,5").parent) == (b"a@b.ex", -1)


@pytest.mark.parametrize("end", [b" 5", b" 0,3,0", b" e@x 3,-1#1", b" o 1,4#2"])
def test_an_old_form_may_be_so_long_that_its_modern_one_still_is_a_line(end: bytes) -> None:
    longest = b"a" * (65000 - len(end) - 1) + end
    assert len(read(longest).address) == 65000 - 1 - len(end)
    assert refused(b"a" + longest).expected == "an old form of recipient of at most 65000 bytes"
    # The form that is written today is as long as any line.
    modern = b"a" * 65000 + b" o 1,4 e@x 3,-1#3"
    assert len(read(modern).address) == 65000


@pytest.mark.parametrize("bits", [b"0", b"4", b"7", b"03", b"13"])
def test_what_follows_the_address_is_named_by_1_2_or_3(bits: bytes) -> None:
    error = refused(b"a@b.ex  0,2  0,-1#" + bits)
    assert (error.expected, error.column) == ("#1, #2 or #3 at the end of a recipient", 18)


@pytest.mark.parametrize(
    ("line", "expected", "column"),
    [
        (b" e 1,0#1", "a recipient with an address", 1),
        (b" o 1,4#2", "a recipient with an address", 1),
        (b"a@b.ex X1,2#1", "errors_to length,parent after a space", 9),
        (b"a@b.ex e1,2#1", "errors_to length,parent after a space", 9),
        (b"a@b.ex o1,2#2", "orcpt length,flags after a space", 9),
        (b"a@b.ex e 2,-1#1", "errors_to length,parent with the length of the string before it", 10),
        (b"e 1,0#1", "errors_to length,parent with the length of the string before it", 3),
    ],
)
def test_an_error_says_what_is_missing_and_where(line: bytes, expected: str, column: int) -> None:
    error = refused(line)
    assert (error.expected, error.column) == (expected, column)
