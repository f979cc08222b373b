"""Regular expressions that count: a number, and as much after it as it says.

The spool format puts lengths before values. An expression with an alternative for each
number follows them without a step of the interpreter in between, in time proportional to
what it matches.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable


def each_number(digits: int, rest: Callable[[int], bytes]) -> bytes:
    """An expression for every number of that many digits (zeros in front as well), each followed by its rest()."""

    def beginning_with(number: int, missing: int) -> bytes:
        if not missing:
            return rest(number)
        return b"(?:%b)" % b"|".join(
            b"%d%b" % (digit, beginning_with(number * 10 + digit, missing - 1)) for digit in range(10)
        )

    return beginning_with(0, digits)
