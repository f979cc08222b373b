"""Strings that make a backtracking expression work as hard as it can.

An expression can only be slow in its repeats. For each repeat that has no small bound this
gives what leads up to it, and what it may repeat: one byte of each kind that the expression
tells apart, and every alternative of its body. A caller repeats these thousands of times and
lets the match fail behind them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

# The parser of re itself: what it makes of an expression is what is run.
from re import _constants as sre  # type: ignore[attr-defined]  # isort: skip
from re import _parser as parser  # type: ignore[attr-defined]  # isort: skip

_LONG: Final = 16
_REPEATS: Final = frozenset({sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT})
_CANDIDATES: Final = tuple(map(chr, range(256)))
_MOST_VARIANTS: Final = 6

Parts = list[tuple[Any, Any]]


def attacks(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str]]:
    """Pairs of what comes first and what to repeat after it; text, in Latin-1 for an expression of bytes."""
    source = pattern.pattern
    tree: Parts = list(parser.parse(source, pattern.flags & ~re.DEBUG))
    kinds = _kinds(tree, pattern.flags)
    seen: set[tuple[str, str]] = set()
    for lead, body in _long_repeats(tree, "", kinds):
        for pump in (*kinds, *_texts(body, kinds)):
            if pump and (lead, pump) not in seen:
                seen.add((lead, pump))
                yield lead, pump
    for pump in kinds:
        yield "", pump


def _kinds(tree: Parts, flags: int) -> tuple[str, ...]:
    """One character of each kind that some part of the expression tells from the others."""
    atoms = list(_atoms(tree))
    kinds: dict[tuple[bool, ...], str] = {}
    # Letters and digits first: they make the more telling representatives.
    for character in sorted(_CANDIDATES, key=lambda one: (not one.isalnum(), one)):
        kinds.setdefault(tuple(_fits(atom, character, flags) for atom in atoms), character)
    return tuple(kinds.values())


def _atoms(tree: Parts) -> Iterator[tuple[Any, Any]]:
    for operation, argument in tree:
        if operation in {sre.LITERAL, sre.NOT_LITERAL, sre.IN, sre.ANY}:
            yield operation, argument
        for inner in _inside(operation, argument):
            yield from _atoms(inner)


def _inside(operation: Any, argument: Any) -> list[Parts]:
    if operation in _REPEATS:
        return [list(argument[2])]
    if operation is sre.BRANCH:
        return [list(branch) for branch in argument[1]]
    if operation is sre.SUBPATTERN:
        return [list(argument[3])]
    if operation is sre.ATOMIC_GROUP:
        return [list(argument)]
    if operation in {sre.ASSERT, sre.ASSERT_NOT}:
        return [list(argument[1])]
    return []


def _fits(atom: tuple[Any, Any], character: str, flags: int) -> bool:
    operation, argument = atom
    if operation is sre.LITERAL:
        return bool(ord(character) == argument)
    if operation is sre.NOT_LITERAL:
        return bool(ord(character) != argument)
    if operation is sre.ANY:
        return bool(flags & re.DOTALL) or character != "\n"
    answer = any(_is_member(item, character) for item in argument if item[0] is not sre.NEGATE)
    return answer != any(item[0] is sre.NEGATE for item in argument)


def _is_member(item: tuple[Any, Any], character: str) -> bool:
    kind, value = item
    if kind is sre.LITERAL:
        return bool(ord(character) == value)
    if kind is sre.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    tests = {
        sre.CATEGORY_DIGIT: character.isdigit() and character.isascii(),
        sre.CATEGORY_SPACE: character.isspace() and character.isascii(),
        sre.CATEGORY_WORD: (character.isalnum() and character.isascii()) or character == "_",
        sre.CATEGORY_NOT_DIGIT: not character.isdigit(),
        sre.CATEGORY_NOT_SPACE: not character.isspace(),
        sre.CATEGORY_NOT_WORD: not (character.isalnum() or character == "_"),
    }
    return tests[value]


def _long_repeats(tree: Parts, lead: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, Parts]]:
    for operation, argument in tree:
        if operation in _REPEATS and argument[1] > _LONG:
            yield lead, list(argument[2])
        for inner in _inside(operation, argument):
            yield from _long_repeats(inner, lead, kinds)
        lead += next(_texts([(operation, argument)], kinds), "")


def _texts(tree: Parts, kinds: tuple[str, ...]) -> Iterator[str]:
    """A few short texts that the parts match."""
    found = [""]
    for operation, argument in tree:
        variants = list(islice(_part(operation, argument, kinds), _MOST_VARIANTS))
        found = [text + variant for text in found for variant in variants or [""]][:_MOST_VARIANTS]
    yield from found


def _part(operation: Any, argument: Any, kinds: tuple[str, ...]) -> Iterator[str]:
    if operation is sre.LITERAL:
        yield chr(argument)
    elif operation in {sre.NOT_LITERAL, sre.IN, sre.ANY}:
        yield from (kind for kind in kinds if _fits((operation, argument), kind, 0))
    elif operation in _REPEATS:
        least, most, body = argument
        for text in _texts(list(body), kinds):
            yield text * max(least, min(1, most))
    elif operation not in {sre.ASSERT, sre.ASSERT_NOT, sre.AT}:
        for inner in _inside(operation, argument):
            yield from _texts(inner, kinds)
