"""Reading Authentication-Results: whose it is, and what it says (RFC 8601 section 2.2).

Two questions with two tempers. Whose: strictly, and when in doubt ours, because a field
that somebody could take for ours has to go. What: tolerantly, because Exim's own
``${authresults}`` leaves the grammar (``u=someone``, ``smtp.mailfrom=<>``, ``tmperror``).

Every function is one pass; nested comments cost what they are long.

Diagnostics: raises nothing. parse_authentication_results() gives None for what cannot
be read, judge_origin() says Origin.DOUBTFUL.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct

from ..results import AuthResult, Property, Result
from .domain_names import a_label_domain
from .structured_field import KEYWORD, LAX_VALUE, NUMBER, TOKEN, Cursor, UnreadableError

MAX_LENGTH: Final = 64 * 1024
MAX_RESULTS: Final = 100

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


def judge_origin(value: bytes, authserv_id: str) -> Origin:
    """Whether a field with this value claims to be from authserv_id.

    FOREIGN only for an id that reads clearly and cannot be taken for ours: RFC 8601 5
    wants every field gone that claims our id, and a reader may be laxer than we are.
    """
    cursor = Cursor(value[:MAX_LENGTH])
    try:
        cursor.skip_cfws()
        identity = cursor.value(TOKEN)
        cursor.skip_cfws()
        if cursor.number() is not None:
            cursor.skip_cfws()
    except UnreadableError:
        return Origin.DOUBTFUL
    found, ours = comparable_id(identity), comparable_id(authserv_id.encode())
    if found is not None and found == ours:
        return Origin.OURS
    if found is None or not (cursor.at_end() or cursor.peek() == b";"):
        # No id at all ("spf=pass ..."), "example.org/1", "other example.org": who knows what others read there.
        return Origin.DOUBTFUL
    if ours in [comparable_id(word.strip(b".")) for word in identity.split()]:
        return Origin.DOUBTFUL  # in quotes, or with dots to spare
    return Origin.FOREIGN


def comparable_id(identity: bytes) -> bytes | None:
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
        return _read_field(Cursor(value))
    except UnreadableError:
        return None


def parse_arc_authentication_results(value: bytes) -> tuple[int, AuthenticationResultsField] | None:
    """Read an ARC-Authentication-Results field: its instance, and what follows (RFC 8617 4.1.1)."""
    if len(value) > MAX_LENGTH:
        return None
    cursor = Cursor(value)
    try:
        return cursor.instance(), _read_field(cursor)
    except UnreadableError:
        return None


def _read_field(cursor: Cursor) -> AuthenticationResultsField:
    results: list[AuthResult] = []
    unknown: list[str] = []
    cursor.skip_cfws()
    identity = cursor.value(TOKEN)
    cursor.skip_cfws()
    version = cursor.number()
    cursor.skip_cfws()
    while cursor.take(b";"):
        cursor.skip_cfws()
        if cursor.at_end() or cursor.peek() == b";":
            continue
        if len(results) + len(unknown) >= MAX_RESULTS:
            raise UnreadableError
        _read_result(cursor, results, unknown)
    if not cursor.at_end():
        raise UnreadableError
    return AuthenticationResultsField(
        authserv_id=_text(identity),
        version=1 if version is None else version,
        results=tuple(results),
        unknown=tuple(unknown),
    )


def skip_version(cursor: Cursor) -> None:
    """From a method to its result: ``[/ version] =`` (RFC 8601 2.2 methodspec)."""
    if cursor.take(b"/"):
        cursor.skip_cfws()
        cursor.match(NUMBER)
        cursor.skip_cfws()
    cursor.require(b"=")
    cursor.skip_cfws()


def _read_result(cursor: Cursor, results: list[AuthResult], unknown: list[str]) -> None:
    method = _text(cursor.match(KEYWORD)).lower()
    cursor.skip_cfws()
    if method == "none" and (cursor.at_end() or cursor.peek() == b";"):
        return
    skip_version(cursor)
    word = _text(cursor.match(KEYWORD)).lower()
    cursor.skip_cfws()
    reason = ""
    properties: list[Property] = []
    while not cursor.at_end() and cursor.peek() != b";":
        name = _text(cursor.match(KEYWORD))
        cursor.skip_cfws()
        ptype = ""
        if cursor.take(b"."):
            cursor.skip_cfws()
            ptype, name = name, _text(cursor.match(KEYWORD))
            cursor.skip_cfws()
        cursor.require(b"=")
        cursor.skip_cfws()
        found = cursor.value(LAX_VALUE)
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
