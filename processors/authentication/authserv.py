"""Reading just enough of Authentication-Results text to copy it into an ARC set.

An ARC-Authentication-Results field carries the results as they were written, comments
included (RFC 8617 section 4.1.1); so this module finds the authserv-id and the borders
between results and leaves what is between them alone (RFC 8601 section 2.2).

Diagnostics: raises nothing; text that does not parse yields None or nothing.
"""

from __future__ import annotations

import re
from typing import Final

_FOLDING_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_COMMENT_PART: Final = re.compile(rb"[^()\\]+|\\.|[()]|\\\Z", re.DOTALL)
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_TOKEN: Final = re.compile(rb'[^\x00-\x20\x7f()<>@,;:\\"/\[\]?=]+')
_VERSION: Final = re.compile(rb"[0-9]+")
_DIGITS: Final = re.compile(rb"[0-9]{1,9}")
_USUAL_INSTANCE: Final = re.compile(rb"[ \t\r\n]*i[ \t]*=[ \t]*([0-9]{1,9})[ \t]*;")
_PLAIN: Final = re.compile(rb'[^;"(]+')
_METHOD: Final = re.compile(rb"([A-Za-z0-9_-]+)(?:\s*/\s*[0-9]+)?\s*=\s*([A-Za-z0-9_-]+)")


def skip_cfws(text: bytes, position: int) -> int:
    """Where folding white space and comments end; -1 where a comment does not."""
    while True:
        position = _end(_FOLDING_SPACE, text, position)
        if not text.startswith(b"(", position):
            return position
        position = _comment_end(text, position)
        if position < 0:
            return -1


def parse_aar_instance(value: bytes) -> int:
    """The instance that an ARC-Authentication-Results field begins with (RFC 8617 4.1.1), 0 where it does not."""
    if usual := _USUAL_INSTANCE.match(value):
        return int(usual.group(1))
    position = skip_cfws(value, 0)
    for expected in (b"i", b"="):
        if position < 0 or not value.startswith(expected, position):
            return 0
        position = skip_cfws(value, position + 1)
    digits = _DIGITS.match(value, position) if position >= 0 else None
    if digits is None:
        return 0
    position = skip_cfws(value, digits.end())
    return int(digits.group()) if position >= 0 and value.startswith(b";", position) else 0


def results_of(value: bytes, authserv_id: bytes) -> list[bytes] | None:
    """The results in an Authentication-Results value if it is authserv_id's own, else None.

    Ids compare whole and in any case. Results are unfolded, white space reduced to
    single spaces; ``none`` is no result. None also for text that does not parse: what
    can't be read is not ours.
    """
    position = skip_cfws(value, 0)
    if position < 0 or b"\0" in value:  # a header field that is written can't hold NUL
        return None
    if quoted := _QUOTED.match(value, position):
        found, position = re.sub(rb"\\(.)", rb"\1", quoted.group(1), flags=re.DOTALL), quoted.end()
    elif token := _TOKEN.match(value, position):
        found, position = token.group(), token.end()
    else:
        return None
    if found.lower() != authserv_id.lower():
        return None
    position = skip_cfws(value, position)
    if position >= 0 and (version := _VERSION.match(value, position)):
        if version.group() != b"1":  # RFC 8601 2.2: a version that is not known can't be interpreted
            return None
        position = skip_cfws(value, version.end())
    if position == len(value):
        return []
    if position < 0 or not value.startswith(b";", position):
        return None
    return _split_results(value, position + 1)


def method_result(results: list[bytes], method: bytes) -> bytes | None:
    """The keyword of the first result for method, in lower case."""
    for result in results:
        start = skip_cfws(result, 0)
        match = _METHOD.match(result, start) if start >= 0 else None
        if match and match.group(1).lower() == method:
            return match.group(2).lower()
    return None


def _split_results(value: bytes, position: int) -> list[bytes] | None:
    """The texts between semicolons that stand outside of comments and quoted strings."""
    if b"(" not in value and b'"' not in value:
        return _without_nothing(value[position:].split(b";"))
    results: list[bytes] = []
    start = position
    while position < len(value):
        octet = value[position : position + 1]
        if octet == b";":
            results.append(value[start:position])
            start = position = position + 1
        elif octet == b"(":
            position = _comment_end(value, position)
            if position < 0:
                return None
        elif octet == b'"':
            quoted = _QUOTED.match(value, position)
            if quoted is None:
                return None
            position = quoted.end()
        else:
            position = _end(_PLAIN, value, position)
    results.append(value[start:])
    return _without_nothing(results)


def _without_nothing(results: list[bytes]) -> list[bytes]:
    """Results unfolded, without those that are empty or ``none``."""
    reduced = [b" ".join(result.split()) for result in results]
    return [result for result in reduced if result and result.lower() != b"none"]


def _comment_end(text: bytes, position: int) -> int:
    """Behind the comment that begins at position; comments nest. -1 where it does not end."""
    depth = 0
    while match := _COMMENT_PART.match(text, position):
        position = match.end()
        part = match.group()
        if part == b"(":
            depth += 1
        elif part == b")":
            depth -= 1
            if depth == 0:
                return position
    return -1


def _end(pattern: re.Pattern[bytes], text: bytes, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position
