"""Reading just enough of Authentication-Results text to copy it into an ARC set.

An ARC-Authentication-Results field carries the results as they were written, comments
included (RFC 8617 section 4.1.1); so this module finds the authserv-id and the borders
between results and leaves what is between them alone (RFC 8601 section 2.2). Whose a
field is, is decided as authres_parse decides it.

Diagnostics: raises nothing; text that does not parse yields None or nothing.
"""

from __future__ import annotations

import re
from typing import Final

from .authres_parse import MAX_LENGTH, comparable_id, skip_version
from .structured_field import KEYWORD, TOKEN, Cursor, UnreadableError

#: What nearly all fields and results look like. What matches means the same to a Cursor, which reads the rest.
_USUAL_ID: Final = re.compile(rb'[ \t\r\n]*(%b)[ \t\r\n]*;(?=(?>(?:[^("]++|"[^"\\;]*+")*)\Z)' % TOKEN.pattern)
_USUAL_RESULT: Final = re.compile(rb"(%b)=(%b)" % (KEYWORD.pattern, KEYWORD.pattern))
_USUAL_INSTANCE: Final = re.compile(rb"[ \t\r\n]*i[ \t]*=[ \t]*([0-9]{1,9})[ \t]*;")


def parse_aar_instance(value: bytes) -> int:
    """The instance that an ARC-Authentication-Results field begins with (RFC 8617 4.1.1), 0 where it does not."""
    if usual := _USUAL_INSTANCE.match(value):
        return int(usual.group(1))
    cursor = Cursor(value)
    try:
        return cursor.instance()
    except UnreadableError:
        return 0


def results_of(value: bytes, authserv_id: bytes) -> list[bytes] | None:
    """The results in an Authentication-Results value if it is authserv_id's own, else None.

    Ids compare as domains (comparable_id()). Results are unfolded, white space reduced to
    single spaces; ``none`` is no result. None also for text that does not parse: what
    can't be read is not ours.
    """
    if b"\0" in value or len(value) > MAX_LENGTH:  # a header field that is written can't hold NUL
        return None
    if usual := _USUAL_ID.match(value):
        identity, parts = usual[1], value[usual.end() :].split(b";")
    else:
        try:
            identity, parts = _divide(Cursor(value))
        except UnreadableError:
            return None
    found = comparable_id(identity)
    if found is None or found != comparable_id(authserv_id):
        return None
    reduced = [b" ".join(part.split()) for part in parts]
    return [result for result in reduced if result and not _says_nothing(result)]


def _says_nothing(result: bytes) -> bool:
    """True for ``none``, for a comment, and for both (RFC 8601 2.2 no-result)."""
    if b"(" not in result:
        return result.lower() == b"none"
    cursor = Cursor(result)
    try:
        cursor.skip_cfws()
        if not cursor.at_end() and cursor.match(KEYWORD).lower() != b"none":
            return False
        cursor.skip_cfws()
    except UnreadableError:
        return False
    return cursor.at_end()


def _divide(cursor: Cursor) -> tuple[bytes, list[bytes]]:
    """The authserv-id and the text of each result; UnreadableError for what is no such field."""
    cursor.skip_cfws()
    identity = cursor.value(TOKEN)
    cursor.skip_cfws()
    version = cursor.number()
    if version is not None:
        if version != 1:  # RFC 8601 2.2: a version that is not known can't be interpreted
            raise UnreadableError
        cursor.skip_cfws()
    if cursor.at_end():
        return identity, []
    cursor.require(b";")
    return identity, cursor.semicolon_parts()


def method_result(results: list[bytes], method: bytes) -> bytes | None:
    """The keyword of the first result for method, in lower case."""
    for result in results:
        if usual := _USUAL_RESULT.match(result):
            name, word = usual[1], usual[2]
        else:
            try:
                name, word = _method_and_word(Cursor(result))
            except UnreadableError:
                continue
        if name.lower() == method:
            return word.lower()
    return None


def _method_and_word(cursor: Cursor) -> tuple[bytes, bytes]:
    """``method [/ version] = keyword`` (RFC 8601 2.2 methodspec)."""
    cursor.skip_cfws()
    name = cursor.match(KEYWORD)
    cursor.skip_cfws()
    skip_version(cursor)
    return name, cursor.match(KEYWORD)
