"""SPF macro strings (RFC 7208 section 7): parsed once, expanded per message.

Expansion of a name is bounded by what DNS can ask: it is made from the right and stops
when the 253 characters are full, however long the record and the sender.

Diagnostics: parse_macro_string() raises SpfSyntaxError with the offending text;
expanding raises DnsTemporaryError only where the ``p`` macro's lookup does (spf.py never
lets it).
"""

from __future__ import annotations

import re
from typing import Final, Protocol
from urllib.parse import quote

from msgspec import Struct

_PIECE: Final = re.compile(
    r"(?P<literal>[!-$&-~ ]+)"
    r"|%\{(?P<letter>[slodiphcrtvSLODIPHCRTV])(?P<digits>[0-9]*)(?P<reverse>[rR]?)(?P<delimiters>[.\-+,/_=]*)\}"
    r"|%(?P<escape>[%_-])"
)
_ESCAPES: Final = {"%": "%", "_": " ", "-": "%20"}
_TOP_LABEL: Final = re.compile(r"[A-Za-z0-9-]+")
_MAX_NAME: Final = 253
MAX_EXPLANATION: Final = 512


class SpfSyntaxError(Exception):
    """Internal to the parser: what makes a record a permerror. Never leaves parse_record()."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Macro(Struct, frozen=True):
    """``%{letter digits r delimiters}``; parts 0 keeps all, url_escape is the capital letter."""

    letter: str
    parts: int
    reverse: bool
    delimiters: str
    url_escape: bool


class MacroString(Struct, frozen=True):
    """A parsed macro-string: literals and macros, and the text it was read from."""

    text: str
    pieces: tuple[str | Macro, ...]

    @property
    def is_literal(self) -> bool:
        """True without macros: expands to the same for every message."""
        return not any(isinstance(piece, Macro) for piece in self.pieces)


class MacroValues(Protocol):
    """Where the letters get their values; called only for letters that occur."""

    def macro_value(self, letter: str) -> str:
        """The value of a letter in lower case (RFC 7208 7.2)."""
        ...


def parse_macro_string(text: str, *, explanation: bool = False) -> MacroString:
    """Parse a macro-string; only an explanation may hold spaces and the letters c, r and t."""
    return _parse(text, explanation=explanation)[0]


def _parse(text: str, *, explanation: bool) -> tuple[MacroString, str]:
    """The macro-string, and the literal text after its last macro-expand."""
    pieces: list[str | Macro] = []
    position, tail = 0, ""
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            raise SpfSyntaxError(f"bad macro or character at {text[position : position + 10]!r}")
        position = match.end()
        literal, letter, escape = match["literal"], match["letter"], match["escape"]
        tail = literal or ""
        if literal is not None:
            if not explanation and " " in literal:
                raise SpfSyntaxError("space in a macro-string")
            pieces.append(literal)
        elif escape is not None:
            pieces.append(_ESCAPES[escape])
        else:
            if not explanation and letter in "crtCRT":
                raise SpfSyntaxError(f"macro %{{{letter}}} outside an explanation")
            digits = match["digits"].lstrip("0")
            if match["digits"] and not digits:
                raise SpfSyntaxError("macro keeps 0 parts")
            pieces.append(
                Macro(
                    letter.lower(),
                    min(int(digits[:4]), 128) if digits else 0,
                    bool(match["reverse"]),
                    match["delimiters"] or ".",
                    letter.isupper(),
                )
            )
    return MacroString(text, tuple(pieces)), tail


def parse_domain_spec(text: str) -> MacroString:
    """Parse a domain-spec: a macro-string that ends in a macro or in "." toplabel ["."] (RFC 7208 7.1)."""
    parsed, tail = _parse(text, explanation=False)
    if not parsed.pieces:
        raise SpfSyntaxError("empty domain")
    if tail:
        _, dot, label = tail.removesuffix(".").rpartition(".")
        if (
            not dot
            or _TOP_LABEL.fullmatch(label) is None
            or label.isdigit()
            or label.startswith("-")
            or label.endswith("-")
        ):
            raise SpfSyntaxError(f"{text[:60]!r} does not end in a top-level label or a macro")
    return parsed


def expand_domain(spec: MacroString, values: MacroValues) -> str:
    """The name to ask for; longer than 253 characters loses labels on the left (RFC 7208 7.3)."""
    pieces: list[str] = []
    length = 0
    for piece in reversed(spec.pieces):
        text = piece if isinstance(piece, str) else _expand(piece, values)
        pieces.append(text)
        length += len(text)
        if length > _MAX_NAME + 1:
            break  # whatever stands further left is cut off below
    name = "".join(reversed(pieces)).removesuffix(".")
    if len(name) <= _MAX_NAME:
        return name
    # The longest run of whole labels that fits: cut after the first dot from where 253 are left.
    dot = name.find(".", len(name) - _MAX_NAME - 1)
    return name[dot + 1 :] if dot >= 0 else ""


def expand_explanation(spec: MacroString, values: MacroValues) -> str:
    """The explanation for a person: at most MAX_EXPLANATION characters, printable ASCII only."""
    pieces: list[str] = []
    room = MAX_EXPLANATION
    for piece in spec.pieces:
        text = piece if isinstance(piece, str) else _expand(piece, values)
        pieces.append(text[:room])
        room -= len(text)
        if room <= 0:
            break
    return "".join(character if " " <= character <= "~" else "?" for character in "".join(pieces))


def _expand(macro: Macro, values: MacroValues) -> str:
    text = values.macro_value(macro.letter)
    if macro.parts or macro.reverse or macro.delimiters != ".":
        parts = _split(text, macro.delimiters)
        if macro.reverse:
            parts.reverse()
        if macro.parts:
            parts = parts[-macro.parts :]
        text = ".".join(parts)
    # A local part outside ASCII never matches (RFC 8616 4): left as it is, no name holds it.
    return quote(text, safe="-._~") if macro.url_escape and text.isascii() else text


def _split(text: str, delimiters: str) -> list[str]:
    first = delimiters[0]
    for other in delimiters[1:]:
        text = text.replace(other, first)
    return text.split(first)
