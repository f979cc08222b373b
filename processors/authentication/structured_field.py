"""A position in the value of a structured header field: comments, quoted strings, tokens (RFC 5322 3.2, RFC 8601 2.2).

Whoever reads Authentication-Results, its ARC kind or Received-SPF reads through this, so
that all of them see the same borders. Every step is one forward; nested comments cost
what they are long.

Diagnostics: UnreadableError, which the readers turn into a value.
"""

from __future__ import annotations

import re
from typing import Final

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_IN_COMMENT: Final = re.compile(rb"[^()\\]+|\\.", re.DOTALL)
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_PLAIN: Final = re.compile(rb'[^;"(]+')
#: RFC 2045 token; octets above ASCII are let through to be judged by name (RFC 8616 5.1).
TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`{|}~0-9A-Za-z\x80-\xff-]+")
KEYWORD: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9_-]*")
NUMBER: Final = re.compile(rb"[0-9]{1,9}")
#: A value as programs write it: base64, addresses, ``<>``, IPv6, all unquoted.
LAX_VALUE: Final = re.compile(rb'[^\x00-\x20\x7f;()"\\]+')


class UnreadableError(Exception):
    """Ends a reading; never leaves the readers."""


class Cursor:
    """Reads a value from its beginning; each step forward, none back."""

    __slots__ = ("_value", "position")

    def __init__(self, value: bytes) -> None:
        self._value = value
        self.position = 0

    def at_end(self) -> bool:
        """True behind the last octet."""
        return self.position >= len(self._value)

    def peek(self) -> bytes:
        """The next octet; empty at the end."""
        return self._value[self.position : self.position + 1]

    def take(self, octet: bytes) -> bool:
        """Step over octet if it is next."""
        if self.peek() != octet:
            return False
        self.position += 1
        return True

    def require(self, octet: bytes) -> None:
        """Step over octet."""
        if not self.take(octet):
            raise UnreadableError

    def match(self, pattern: re.Pattern[bytes]) -> bytes:
        """What pattern matches here."""
        match = pattern.match(self._value, self.position)
        if match is None:
            raise UnreadableError
        self.position = match.end()
        return match[0]

    def number(self) -> int | None:
        """The decimal number here, None if there is none."""
        match = NUMBER.match(self._value, self.position)
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
        return found + self.match(bare) if self.peek() == b"@" and bare is LAX_VALUE else found

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
                raise UnreadableError  # a backslash at the very end
        if depth:
            raise UnreadableError

    def instance(self) -> int:
        """``i=N;``, which an ARC-Authentication-Results field begins with (RFC 8617 4.1.1)."""
        for mark in (b"i", b"="):
            self.skip_cfws()
            self.require(mark)
        self.skip_cfws()
        instance = int(self.match(NUMBER))
        self.skip_cfws()
        self.require(b";")
        return instance

    def semicolon_parts(self) -> list[bytes]:
        """The rest, divided at semicolons that stand outside of comments and quoted strings."""
        value = self._value
        if value.find(b"(", self.position) < 0 and value.find(b'"', self.position) < 0:
            rest = value[self.position :]
            self.position = len(value)
            return rest.split(b";")
        parts: list[bytes] = []
        start = self.position
        while not self.at_end():
            octet = self.peek()
            if octet == b";":
                parts.append(value[start : self.position])
                self.position += 1
                start = self.position
            elif octet == b"(":
                self.skip_cfws()
            elif octet == b'"':
                self.match(_QUOTED)
            else:
                self.match(_PLAIN)
        parts.append(value[start:])
        return parts
