"""Regular expressions that count: a number, and as much after it as it says.

The spool format puts lengths before values. An expression with an alternative for each
number follows them without a step of the interpreter in between, in time proportional to
what it matches.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

#: Before it CPython goes on from a wrong place where the last repetition of a group, being possessive, failed halfway
#: (gh-106052). Debian 12 has such a one. To repeat a single character possessively is right everywhere.
_REPEATS_GROUPS_RIGHT: Final = sys.version_info >= (3, 11, 5)
_MOST_REPETITIONS: Final = 1000


def repeated(expression: bytes, least: int, *, is_right: bool = _REPEATS_GROUPS_RIGHT) -> bytes:
    """The expression at least so often (0 or 1), and as often as it comes, without giving one back.

    Where Python can't do that (is_right), a thousand times at most, which bounds what is kept to go back to: the caller
    has another way for what does not match, or asks again.
    """
    times = (b"++" if least else b"*+") if is_right else b"{%d,%d}" % (least, _MOST_REPETITIONS)
    return b"(?:%b)%b" % (expression, times)


def each_number(digits: int, rest: Callable[[int], bytes]) -> bytes:
    """An expression for every number of that many digits (zeros in front as well), each followed by its rest()."""

    def beginning_with(number: int, missing: int) -> bytes:
        if not missing:
            return rest(number)
        return b"(?:%b)" % b"|".join(
            b"%d%b" % (digit, beginning_with(number * 10 + digit, missing - 1)) for digit in range(10)
        )

    return beginning_with(0, digits)
