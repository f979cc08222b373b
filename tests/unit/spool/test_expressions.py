"""Expressions that repeat: possessively, and in the way of a Python that can't do it right."""

from __future__ import annotations

import re

import pytest

from respool.spool.expressions import each_number, repeated

COUNTED = each_number(1, lambda length: b":.{%d};" % length)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (b"3:abc;0:;", 9),
        # The last one fails after it has taken something: what was whole before it counts, and not a byte more.
        (b"3:abc;5:abc;", 6),
        (b"3:abc;2:abc;", 6),
        (b"2:abc;", None),
        (b"", None),
    ],
)
def test_both_ways_match_the_same(text: bytes, end: int | None) -> None:
    for least in (0, 1):
        expected = end if end is not None or least else 0
        # What is right here is asked for by default; the other way is right on every Python.
        for expression in (repeated(COUNTED, least), repeated(COUNTED, least, is_right=False)):
            found = re.match(expression, text)
            assert (None if found is None else found.end()) == expected


def test_the_other_way_keeps_no_more_than_so_many_places_to_go_back_to() -> None:
    found = re.match(repeated(COUNTED, 1, is_right=False), b"0:;" * 5000)
    assert found is not None
    assert found.end() == 3 * 1000
