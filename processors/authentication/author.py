"""The author domain of a message: who From says it is, read with suspicion.

DMARC protects what people see in From, so what different programs read differently must
not pass: several fields, several domains, text that is no address list. A tolerant
reading is given only where all readers agree (an unquoted comma or ``@`` in a display
name before ``<address>``).

Diagnostics: raises nothing; Author.problem says in words what is wrong with From.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from msgspec import Struct

from .domain_names import a_label_domain

MAX_FROM_LENGTH: Final = 32 * 1024
MAX_AUTHOR_DOMAINS: Final = 4

_SPACE: Final = re.compile(rb"[ \t\r\n]+")
_ATOM: Final = re.compile(rb"[^\x00-\x20\x7f()<>@,;:\\\"\[\]]+")
_QUOTED: Final = re.compile(rb'"((?:[^"\\\x00]|\\[^\x00])*)"', re.DOTALL)
_LITERAL: Final = re.compile(rb"\[[^\[\]\\\x00\n]*\]")
_IN_COMMENT: Final = re.compile(rb"[^()\\]+|\\.", re.DOTALL)

#: ``Ann Example <ann@example.org>`` and ``<ann@example.org>``: words without specials, or one quoted string, before
#: an address of two atoms. What matches means the same to the tokens below; the rest is theirs.
_USUAL: Final = re.compile(
    rb"[ \t]*+(?:[A-Za-z0-9._'+\-][A-Za-z0-9._'+\- \t\n]*+|\"[A-Za-z0-9._'+\-, ]*+\"[ \t\n]*+)?"
    rb"<[A-Za-z0-9._+\-]++@([A-Za-z0-9.\-]++)>[ \t\n]*+"
)
_USUAL_LENGTH: Final = 400

_WORDS: Final = frozenset({"atom", "quoted"})


class Author(Struct, frozen=True):
    """What From says. domains are A-labels in lower case, each once, in order.

    fields is the number of From fields. problem is empty unless From can't be trusted
    to mean one thing; domains then hold what could be read.
    """

    domains: tuple[str, ...] = ()
    fields: int = 0
    problem: str = ""


class _Token(Struct, frozen=True):
    kind: str  # atom, quoted, literal, or the special itself
    text: bytes
    start: int
    end: int


class _MalformedError(Exception):
    """Ends reading one From field; never leaves this module."""


def find_author(values: Sequence[bytes]) -> Author:
    """Read the values of all From fields of a message."""
    domains: list[str] = []
    problem = ""
    for value in values[:MAX_AUTHOR_DOMAINS]:
        try:
            domains += _domains(value)
        except _MalformedError as error:
            problem = problem or str(error)
    found = tuple(dict.fromkeys(domains))
    if len(values) > 1:
        problem = f"{len(values)} From fields"  # RFC 5322 3.6: exactly one
    elif len(found) > MAX_AUTHOR_DOMAINS:
        problem = f"From names {len(found)} domains"
    return Author(found[:MAX_AUTHOR_DOMAINS], len(values), problem)


def _tokens(value: bytes) -> list[_Token]:
    """RFC 5322 3.2 tokens, comments and white space left out; linear in the length."""
    if len(value) > MAX_FROM_LENGTH:
        raise _MalformedError("From is too long")
    tokens: list[_Token] = []
    position, end = 0, len(value)
    while position < end:
        character = value[position : position + 1]
        if (match := _SPACE.match(value, position)) is not None:
            position = match.end()
        elif (match := _ATOM.match(value, position)) is not None:
            tokens.append(_Token("atom", match[0], position, match.end()))
            position = match.end()
        elif character == b"(":
            position = _skip_comment(value, position)
        elif character in {b'"', b"["}:
            match = (_QUOTED if character == b'"' else _LITERAL).match(value, position)
            if match is None:
                raise _MalformedError("From has an unclosed quote or bracket")
            tokens.append(_Token("quoted" if character == b'"' else "literal", match[0], position, match.end()))
            position = match.end()
        elif character in {b"<", b">", b"@", b",", b";", b":"}:
            tokens.append(_Token(character.decode(), character, position, position + 1))
            position += 1
        else:
            raise _MalformedError("From has a character that no address holds")
    return tokens


def _skip_comment(value: bytes, position: int) -> int:
    depth, end = 0, len(value)
    while position < end:
        match = _IN_COMMENT.match(value, position)
        if match is not None:
            position = match.end()
            continue
        character = value[position]
        position += 1
        if character == 0x28:
            depth += 1
        elif character == 0x29:
            depth -= 1
            if depth == 0:
                return position
        else:
            break  # a backslash at the very end
    raise _MalformedError("From has an unclosed comment")


def _domains(value: bytes) -> list[str]:
    """The domains of an address-list (RFC 5322 3.4), groups included (RFC 6854)."""
    if len(value) <= _USUAL_LENGTH and (usual := _USUAL.fullmatch(value)) is not None:
        name = a_label_domain(usual[1])
        if name is not None:
            return [name]
    return _read_domains(value)


def _read_domains(value: bytes) -> list[str]:
    domains: list[str] = []
    mailbox: list[_Token] = []
    in_angle = in_group = False
    for token in _tokens(value):
        kind = token.kind
        if in_angle:
            in_angle = kind != ">"
            mailbox.append(token)
        elif kind == "<":
            in_angle = True
            mailbox.append(token)
        elif kind == "," or (kind == ";" and in_group):
            domains += _mailbox_domain(mailbox)
            mailbox = []
            in_group = in_group and kind == ","
        elif kind == ":" and not in_group:
            if any(part.kind not in _WORDS for part in mailbox):
                raise _MalformedError("From has a colon where no group begins")
            mailbox = []  # the name of a group
            in_group = True
        elif kind in {";", ":", ">"}:
            raise _MalformedError(f"From has a stray {kind!r}")
        else:
            mailbox.append(token)
    if in_angle or in_group:
        raise _MalformedError("From ends within an address")
    return domains + _mailbox_domain(mailbox)


def _mailbox_domain(tokens: list[_Token]) -> list[str]:
    """The domain of one mailbox; none for an empty one, a bare word, an address literal."""
    angles = [index for index, token in enumerate(tokens) if token.kind == "<"]
    if angles:
        if len(angles) > 1 or tokens[-1].kind != ">":
            raise _MalformedError("From has text around <address> that is no display name")
        tokens = _without_route(tokens[angles[0] + 1 : -1])
    signs = [index for index, token in enumerate(tokens) if token.kind == "@"]
    if not signs:
        if any(token.kind not in _WORDS for token in tokens):
            raise _MalformedError("From has an address that can't be read")
        return []
    if len(signs) > 1:
        raise _MalformedError("From has an address with more than one @")
    local, domain = tokens[: signs[0]], tokens[signs[0] + 1 :]
    if not local or not _is_dotted(local) or any(token.kind not in _WORDS for token in local):
        raise _MalformedError("From has an address whose local part can't be read")
    if len(domain) == 1 and domain[0].kind == "literal":
        return []
    if not domain or not _is_dotted(domain) or any(token.kind != "atom" for token in domain):
        raise _MalformedError("From has an address whose domain can't be read")
    name = a_label_domain(b"".join(token.text for token in domain))
    if name is None:
        raise _MalformedError("From has an address whose domain is no domain name")
    return [name]


def _without_route(tokens: list[_Token]) -> list[_Token]:
    """An addr-spec without the obsolete source route ``@a,@b:`` (RFC 5322 4.4)."""
    if not tokens or tokens[0].kind != "@":
        return tokens
    for index, token in enumerate(tokens):
        if token.kind == ":":
            return tokens[index + 1 :]
    raise _MalformedError("From has a source route without an address")


def _is_dotted(tokens: list[_Token]) -> bool:
    """True if words that white space or comments part are joined by a dot (RFC 5322 4.4 obs-domain)."""
    return all(left.text.endswith(b".") != right.text.startswith(b".") for left, right in pairwise(tokens))
