"""Writing Authentication-Results: the header value of RFC 8601 section 2.2 from results.

What results carry came from strangers (domains, selectors, HELO names, reasons that
quote DNS). Each value is written as a token, a mail address, or a quoted string, in
printable ASCII and of bounded length; nothing in it can end the result, the field or the
header section.

Diagnostics: raises nothing, except ValueError for an authserv-id that is empty or not
printable ASCII, which is a configuration's fault.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from ..results import AuthResult, Result

#: RFC 2045 5.1 token, what RFC 8601 2.2 calls a value when unquoted.
_TOKEN_CHARACTERS: Final = "!#$%&'*+.^_`{|}~-" + string.digits + string.ascii_letters
#: ``[[local-part] "@"] domain-name`` without quotes (RFC 8601 2.2 pvalue).
_ADDRESS: Final = re.compile(r"[!#$%&'*+/=?^_`{|}~0-9A-Za-z.-]*@[0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*")
_KEYWORD: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
#: How many words are kept as known to be keywords, or none.
_KEPT: Final = 64
_MAX_VALUE: Final = 400
_MAX_REASON: Final = 200
_LINE: Final = 78
_TAB: Final = 8
_WORDS: Final = {result: result.value for result in Result}


def render_authentication_results(authserv_id: str, results: Iterable[AuthResult]) -> str:
    """The value, folded with LF TAB: ``id;`` and one result to a line, ``none`` where there are none."""
    if not (authserv_id and authserv_id.isascii() and authserv_id.isprintable()):
        raise ValueError(f"not an authserv-id: {authserv_id!r}")
    blocks = [block for result in results if (block := render_result(result))]
    # RFC 8601 2.2: a token or a quoted string; unlike the value of a property it can't be a bare address.
    identity = _quoted(authserv_id, _MAX_VALUE) if authserv_id.strip(_TOKEN_CHARACTERS) else authserv_id
    if not blocks:
        return f"{identity}; none"
    return ";\n\t".join([identity, *blocks])


def render_result(result: AuthResult) -> str:
    """One ``method=result reason="..." ptype.property=value ...``, folded with LF TAB where it is long.

    Empty for a method that is no keyword; properties that are none are left out.
    """
    if not _is_keyword(result.method):
        return ""
    words = [f"{result.method}={_WORDS[result.result]}"]
    if result.reason:
        words.append(f"reason={_quoted(result.reason, _MAX_REASON)}")
    for item in result.properties:
        if _is_keyword(item.ptype) and _is_keyword(item.name):
            words.append(f"{item.ptype}.{item.name}={quote_value(item.value)}")
    line = " ".join(words)
    return line if len(line) + _TAB <= _LINE else _fold(words)


def _fold(words: list[str]) -> str:
    """The words in lines; a fold stands only between words, for white space in a quoted string is content."""
    lines: list[str] = []
    line = words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) + _TAB > _LINE:
            lines.append(line)
            line = word
        else:
            line += " " + word
    lines.append(line)
    return "\n\t".join(lines)


@lru_cache(maxsize=_KEPT)
def _is_keyword(text: str) -> bool:
    return _KEYWORD.fullmatch(text) is not None


def quote_value(value: str) -> str:
    """A value as RFC 8601 lets it stand: bare where it may, else in quotes."""
    if value and not value.strip(_TOKEN_CHARACTERS) and len(value) <= _MAX_VALUE:
        return value  # stripped of the characters of tokens, a token is empty
    if "@" in value and len(value) <= _MAX_VALUE and _ADDRESS.fullmatch(value):
        return value
    return _quoted(value, _MAX_VALUE)


def _quoted(text: str, longest: int) -> str:
    shown = text[:longest]
    if not (shown.isascii() and shown.isprintable()):
        shown = "".join([character if " " <= character <= "~" else "?" for character in shown])
    return '"' + shown.replace("\\", "\\\\").replace('"', '\\"') + '"'
