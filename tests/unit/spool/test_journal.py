"""The journal's limits: what is torn is left out, what just fits is kept."""

from __future__ import annotations

from respool.spool.editing import LONGEST_TREE_NAME
from respool.spool.journal import parse_journal


def test_a_single_line_without_its_end_is_torn() -> None:
    assert parse_journal(b"a@test.ex") == ()


def test_the_longest_name_is_kept_and_a_longer_one_is_not() -> None:
    longest = b"x" * LONGEST_TREE_NAME
    assert parse_journal(longest + b"\n" + longest + b"y\n") == (longest,)
