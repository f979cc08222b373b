"""Authentication results as values, in the words of RFC 8601.

A failed check is a result with a reason, never an exception.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Result(str, Enum):
    """Result keywords of RFC 8601 section 2.7 and the IANA registry."""

    NONE = "none"  # nothing to check: no signature, no record
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"  # SPF: probably not authorised
    NEUTRAL = "neutral"  # checked, and nothing can be said; for DKIM a signature that can't be used
    POLICY = "policy"  # refused by local policy, a weak key for instance
    TEMPERROR = "temperror"  # trouble that passes, DNS for instance
    PERMERROR = "permerror"  # the published record or the message is wrong

    __hash__ = str.__hash__  # of the word, as == compares it; Enum's own is a function in Python


class Property(Struct, frozen=True, gc=False):
    """``ptype.property=value`` of a result, such as ``header.d=example.org``; value unquoted."""

    ptype: str
    name: str
    value: str


class AuthResult(Struct, frozen=True, kw_only=True):
    """One method's outcome (RFC 8601 section 2.2 resinfo).

    reason explains the result to a person; empty where there is nothing to say.
    Methods with more to tell derive from this (ArcResult, DmarcResult, ...).
    """

    method: str
    result: Result
    reason: str = ""
    properties: tuple[Property, ...] = ()
