"""No expression of the product is one that an older Python 3.11 matches wrongly.

Before 3.11.5 a possessive repeat of more than one character (``(?:ab?c)++``) forgets, where its last
round fails, at what it began that round (python/cpython issue 106052): it takes half a round too much.
Debian 12 has 3.11.2. An atomic group around a greedy repeat (``(?>(?:ab?c)+)``) says the same and is matched
rightly by all.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .test_linear_expressions import NAMED

# Python's own reading of an expression; it has no public name.
_parser: Any = importlib.import_module("re._parser")
_ONE_CHARACTER = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}


def possessive_groups(parsed: Any) -> Iterator[Any]:
    """Every possessive repeat below parsed of something longer than a character."""
    for operation, argument in parsed:
        inner = argument if isinstance(argument, tuple) else [argument]
        if str(operation) == "POSSESSIVE_REPEAT":
            repeated = list(argument[2])
            if len(repeated) != 1 or str(repeated[0][0]) not in _ONE_CHARACTER:
                yield argument
        if str(operation) == "BRANCH":
            inner = argument[1]
        for part in inner:
            if isinstance(part, _parser.SubPattern):
                yield from possessive_groups(part)


def parsed(pattern: re.Pattern[Any]) -> Any:
    text = pattern.pattern
    return _parser.parse(text, pattern.flags & ~re.UNICODE if isinstance(text, bytes) else pattern.flags)


@pytest.mark.parametrize("pattern", [r"(?:ab?c)++", r"x(?=(?:a|bc)*+)", r"(?:(?:ab){2,3}+|c)d"])
def test_the_search_finds_them(pattern: str) -> None:
    assert list(possessive_groups(parsed(re.compile(pattern))))


@pytest.mark.parametrize("pattern", [r"[0-9]++a*+.?+", r"(?>(?:ab?c)+)", rb"([0-9]{1,9}+)(?![0-9])"])
def test_the_search_lets_others_pass(pattern: str | bytes) -> None:
    assert not list(possessive_groups(parsed(re.compile(pattern))))


@pytest.mark.parametrize("name", sorted(NAMED))
def test_no_group_is_repeated_possessively(name: str) -> None:
    pattern, _ = NAMED[name]
    assert not list(possessive_groups(parsed(pattern))), (
        f"{name}: {sys.version_info[:3]} is not the oldest that runs it"
    )
