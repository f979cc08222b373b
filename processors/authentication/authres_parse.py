"""Reading Authentication-Results: whose it is, and what it says (RFC 8601 section 2.2).

Two questions with two tempers. Whose: strictly, and when in doubt ours, because a field
that somebody could take for ours has to go. What: tolerantly, because Exim's own
``${authresults}`` leaves the grammar (``u=someone``, ``smtp.mailfrom=<>``, ``tmperror``).

Every function is one pass; nested comments cost what they are long.

Diagnostics: raises nothing. parse_authentication_results() gives None for what cannot
be read, judge_origin() says Origin.DOUBTFUL.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from msgspec import Struct

from ..results import AuthResult, Property, Result
from .domain_names import a_label_domain

MAX_LENGTH: Final = 64 * 1024
MAX_RESULTS: Final = 100

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_IN_COMMENT: Final = re.compile(rb"[^()\\]+|\\.", re.DOTALL)
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
#: RFC 2045 token; octets above ASCII are let through to be judged by name (RFC 8616 5.1).
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`{|}~0-9A-Za-z\x80-\xff-]+")
_KEYWORD: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_-]*")
_NUMBER: Final = re.compile(rb"[0-9]{1,9}")
#: A value as programs write it: base64, addresses, ``<>``, IPv6, all unquoted.
_LAX_VALUE: Final = re.compile(rb'[^\x00-\x20\x7f;()"\\]+')
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)

_RESULTS: Final = {result.value: result for result in Result} | {
    "tmperror": Result.TEMPERROR,  # Exim (dkim.c)
    "hardfail": Result.FAIL,  # RFC 5451
    "unknown": Result.PERMERROR,  # RFC 4408's predecessors
    "error": Result.TEMPERROR,
}


class Origin(Enum):
    """Whose an Authentication-Results field claims to be."""

    OURS = "ours"
    FOREIGN = "foreign"
    DOUBTFUL = "doubtful"  # can't be read for certain; somebody may take it for ours


class AuthenticationResultsField(Struct, frozen=True, kw_only=True):
    """A field as read. version is 1 where none is given; unknown are method=result pairs with a word not known here."""

    authserv_id: str
    version: int = 1
    results: tuple[AuthResult, ...] = ()
    unknown: tuple[str, ...] = ()


class _UnreadableError(Exception):
    """Ends a reading; never leaves this module."""


def judge_origin(value: bytes, authserv_id: str) -> Origin:
    """Whether a field with this value claims to be from authserv_id.

    FOREIGN only for an id that reads clearly and cannot be taken for ours: RFC 8601 5
    wants every field gone that claims our id, and a reader may be laxer than we are.
    """
    cursor = _Cursor(value[:MAX_LENGTH])
    try:
        cursor.skip_cfws()
        found = _comparable(cursor.value(_TOKEN))
        cursor.skip_cfws()
        if cursor.number() is not None:
            cursor.skip_cfws()
    except _UnreadableError:
        return Origin.DOUBTFUL
    if found is not None and found == _comparable(authserv_id.encode()):
        return Origin.OURS
    if found is None or not (cursor.at_end() or cursor.peek() == b";"):
        # No id at all ("spf=pass ..."), "example.org/1", "other example.org": who knows what others read there.
        return Origin.DOUBTFUL
    return Origin.FOREIGN


def _comparable(identity: bytes) -> bytes | None:
    """An id for comparison: a domain in A-labels, else in lower case; None where it is neither."""
    domain = a_label_domain(identity)
    if domain is not None:
        return domain.encode()
    return identity.lower() if identity and identity.isascii() else None


def parse_authentication_results(value: bytes) -> AuthenticationResultsField | None:
    """Read a whole field; None where it is no Authentication-Results value, or too long to bother."""
    if len(value) > MAX_LENGTH:
        return None
    try:
        return _read_field(_Cursor(value))
    except _UnreadableError:
        return None


def parse_arc_authentication_results(value: bytes) -> tuple[int, AuthenticationResultsField] | None:
    """Read an ARC-Authentication-Results field: its instance, and what follows (RFC 8617 4.1.1)."""
    if len(value) > MAX_LENGTH:
        return None
    cursor = _Cursor(value)
    try:
        for mark in (b"i", b"="):
            cursor.skip_cfws()
            cursor.require(mark)
        cursor.skip_cfws()
        instance = int(cursor.match(_NUMBER))
        cursor.skip_cfws()
        cursor.require(b";")
        return instance, _read_field(cursor)
    except _UnreadableError:
        return None


def _read_field(cursor: _Cursor) -> AuthenticationResultsField:
    results: list[AuthResult] = []
    unknown: list[str] = []
    cursor.skip_cfws()
    identity = cursor.value(_TOKEN)
    cursor.skip_cfws()
    version = cursor.number()
    cursor.skip_cfws()
    while cursor.take(b";"):
        cursor.skip_cfws()
        if cursor.at_end() or cursor.peek() == b";":
            continue
        if len(results) + len(unknown) >= MAX_RESULTS:
            raise _UnreadableError
        _read_result(cursor, results, unknown)
    if not cursor.at_end():
        raise _UnreadableError
    return AuthenticationResultsField(
        authserv_id=_text(identity),
        version=1 if version is None else version,
        results=tuple(results),
        unknown=tuple(unknown),
    )


def _read_result(cursor: _Cursor, results: list[AuthResult], unknown: list[str]) -> None:
    method = _text(cursor.match(_KEYWORD)).lower()
    cursor.skip_cfws()
    if method == "none" and (cursor.at_end() or cursor.peek() == b";"):
        return
    if cursor.take(b"/"):
        cursor.skip_cfws()
        cursor.match(_NUMBER)
        cursor.skip_cfws()
    cursor.require(b"=")
    cursor.skip_cfws()
    word = _text(cursor.match(_KEYWORD)).lower()
    cursor.skip_cfws()
    reason = ""
    properties: list[Property] = []
    while not cursor.at_end() and cursor.peek() != b";":
        name = _text(cursor.match(_KEYWORD))
        cursor.skip_cfws()
        ptype = ""
        if cursor.take(b"."):
            cursor.skip_cfws()
            ptype, name = name, _text(cursor.match(_KEYWORD))
            cursor.skip_cfws()
        cursor.require(b"=")
        cursor.skip_cfws()
        found = cursor.value(_LAX_VALUE)
        if not ptype and name.lower() == "reason":
            reason = _text(found)
        elif ptype:
            properties.append(Property(ptype.lower(), name.lower(), _text(found)))
        cursor.skip_cfws()
    result = _RESULTS.get(word)
    if result is None:
        unknown.append(f"{method}={word}")
        return
    results.append(AuthResult(method=method, result=result, reason=reason, properties=tuple(properties)))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class _Cursor:
    """A position in a value; each step forward, none back."""

    __slots__ = ("_value", "position")

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.position = 0

    def at_end(self) -> bool:
        return self.position >= len(self._value)

    def peek(self) -> bytes:
        return self._value[self.position : self.position + 1]

    def take(self, octet: bytes) -> bool:
        if self.peek() != octet:
            return False
        self.position += 1
        return True

    def require(self, octet: bytes) -> None:
        if not self.take(octet):
            raise _UnreadableError

    def match(self, pattern: re.Pattern[bytes]) -> bytes:
        match = pattern.match(self._value, self.position)
        if match is None:
            raise _UnreadableError
        self.position = match.end()
        return match[0]

    def number(self) -> int | None:
        match = _NUMBER.match(self._value, self.position)
        if match is None:
            return None
        self.position = match.end()
        return int(match[0])

    def value(self, bare: re.Pattern[bytes]) -> bytes:
        """A bare value, or a quoted string, unescaped and unfolded; ``"local part"@domain`` is one value, too."""
        quoted = _QUOTED.match(self._value, self.position)
        if quoted is None:
            return self.match(bare)
        self.position = quoted.end()
        found = _ESCAPED.sub(rb"\1", quoted[1].replace(b"\r", b"").replace(b"\n", b""))
        return found + self.match(bare) if self.peek() == b"@" and bare is _LAX_VALUE else found

    def skip_cfws(self) -> None:
        """Skip white space and comments, which nest (RFC 5322 3.2.2)."""
        value, end = self._value, len(self._value)
        depth = 0
        while self.position < end:
            if not depth:
                space = _SPACE.match(value, self.position)
                self.position = space.end() if space is not None else self.position
                if not self.take(b"("):
                    return
                depth = 1
            elif (match := _IN_COMMENT.match(value, self.position)) is not None:
                self.position = match.end()
            elif self.take(b"("):
                depth += 1
            elif self.take(b")"):
                depth -= 1
            else:
                raise _UnreadableError  # a backslash at the very end
        if depth:
            raise _UnreadableError
