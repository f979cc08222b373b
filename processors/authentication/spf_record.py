"""SPF records: the grammar of RFC 7208 sections 4.5-6 and 12 as values.

Any syntax error anywhere makes the whole record a permerror (section 4.6), so a record
is parsed whole before anything of it is evaluated. Parsed records are kept by their
text: the same few hundred are seen all day.

Diagnostics: parse_record() raises nothing; a record that can't be used is an
SpfRecordError value with the term and the reason.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Final

from msgspec import Struct

from ..results import Result
from .spf_macros import MacroString, SpfSyntaxError, parse_domain_spec, parse_macro_string

QUALIFIERS: Final = {"+": Result.PASS, "-": Result.FAIL, "~": Result.SOFTFAIL, "?": Result.NEUTRAL}

_CACHED_LENGTH: Final = 2048
_CACHED_RECORDS: Final = 2048
_MODIFIER: Final = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)", re.DOTALL)
_DIRECTIVE: Final = re.compile(r"([+?~-]?)([A-Za-z0-9]+)((?:[:/].*)?)", re.DOTALL)
_CIDR: Final = re.compile(r"(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z")
_IP4: Final = re.compile(r"((?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2}))(?:/(0|[1-9][0-9]?))?")
_IP6: Final = re.compile(r"([0-9A-Fa-f:.]{2,45})(?:/(0|[1-9][0-9]{0,2}))?")


class Kind(Enum):
    """The mechanisms (RFC 7208 section 5)."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


class Mechanism(Struct, frozen=True, kw_only=True):
    """One directive. text is the term as written, domain None for the current domain.

    prefix4 and prefix6 are CIDR lengths; network is the address of ip4 and ip6 as an
    integer, already masked.
    """

    text: str
    qualifier: Result
    kind: Kind
    domain: MacroString | None = None
    prefix4: int = 32
    prefix6: int = 128
    network: int = 0


class SpfRecord(Struct, frozen=True, kw_only=True):
    """A whole record that keeps the grammar; mechanisms in order."""

    mechanisms: tuple[Mechanism, ...]
    redirect: MacroString | None = None
    explanation: MacroString | None = None


class SpfRecordError(Struct, frozen=True):
    """A record that breaks the grammar: permerror, for this reason."""

    term: str
    reason: str

    def __str__(self) -> str:
        return f"{self.term}: {self.reason}" if self.term else self.reason


def is_spf_record(text: bytes) -> bool:
    """True if a TXT record is an SPF record: ``v=spf1`` and a space or the end (RFC 7208 4.5)."""
    return text[:6].lower() == b"v=spf1" and text[6:7] in {b"", b" "}


def parse_record(text: bytes) -> SpfRecord | SpfRecordError:
    """Parse a record for which is_spf_record() holds."""
    return _parse_cached(text) if len(text) <= _CACHED_LENGTH else _parse(text)


def _parse(record: bytes) -> SpfRecord | SpfRecordError:
    if not record.isascii():
        return SpfRecordError("", "characters outside ASCII")
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, MacroString] = {}
    # Terms are parted by spaces and nothing else (RFC 7208 4.6.1).
    for term in record.decode("ascii")[6:].split(" "):
        if not term:
            continue
        try:
            modifier = _MODIFIER.fullmatch(term)
            if modifier is None:
                mechanisms.append(_parse_directive(term))
            else:
                _parse_modifier(modifier[1].lower(), modifier[2], modifiers)
        except SpfSyntaxError as error:
            return SpfRecordError(term[:80], error.reason)
    return SpfRecord(mechanisms=tuple(mechanisms), redirect=modifiers.get("redirect"), explanation=modifiers.get("exp"))


_parse_cached = lru_cache(maxsize=_CACHED_RECORDS)(_parse)


def _parse_modifier(name: str, value: str, modifiers: dict[str, MacroString]) -> None:
    if name not in {"redirect", "exp"}:
        parse_macro_string(value)  # RFC 7208 6: ignored, but its syntax counts
        return
    if name in modifiers:
        raise SpfSyntaxError(f"{name}= given twice")  # RFC 7208 6
    modifiers[name] = parse_domain_spec(value)


def _parse_directive(term: str) -> Mechanism:
    match = _DIRECTIVE.fullmatch(term)
    parser = None if match is None else _PARSERS.get(match[2].lower())
    if match is None or parser is None:
        raise SpfSyntaxError("not a mechanism")
    return parser(term, QUALIFIERS[match[1] or "+"], match[3])


def _parse_all(text: str, qualifier: Result, rest: str) -> Mechanism:
    if rest:
        raise SpfSyntaxError("all takes no argument")
    return Mechanism(text=text, qualifier=qualifier, kind=Kind.ALL)


def _required_domain(kind: Kind) -> Callable[[str, Result, str], Mechanism]:
    def parse(text: str, qualifier: Result, rest: str) -> Mechanism:
        if not rest.startswith(":"):
            raise SpfSyntaxError("a domain is required")
        return Mechanism(text=text, qualifier=qualifier, kind=kind, domain=parse_domain_spec(rest[1:]))

    return parse


def _parse_ptr(text: str, qualifier: Result, rest: str) -> Mechanism:
    if not rest:
        return Mechanism(text=text, qualifier=qualifier, kind=Kind.PTR)
    return _required_domain(Kind.PTR)(text, qualifier, rest)


def _with_cidr(kind: Kind) -> Callable[[str, Result, str], Mechanism]:
    def parse(text: str, qualifier: Result, rest: str) -> Mechanism:
        prefix4, prefix6 = 32, 128
        match = _CIDR.search(rest)
        if match is not None:
            prefix4 = _prefix(match[1], 32)
            prefix6 = _prefix(match[2], 128)
            rest = rest[: match.start()]
        domain = None
        if rest:
            if not rest.startswith(":"):
                raise SpfSyntaxError("bad prefix length")
            domain = parse_domain_spec(rest[1:])
        return Mechanism(text=text, qualifier=qualifier, kind=kind, domain=domain, prefix4=prefix4, prefix6=prefix6)

    return parse


def _prefix(digits: str | None, longest: int) -> int:
    if digits is None:
        return longest
    if int(digits) > longest:
        raise SpfSyntaxError(f"prefix length over {longest}")
    return int(digits)


def _parse_ip4(text: str, qualifier: Result, rest: str) -> Mechanism:
    match = _IP4.fullmatch(rest[1:]) if rest.startswith(":") else None
    if match is None:
        raise SpfSyntaxError("not an IPv4 network")
    prefix = _prefix(match[2], 32)
    return Mechanism(
        text=text, qualifier=qualifier, kind=Kind.IP4, prefix4=prefix, network=masked(_address(match[1], 4), prefix, 32)
    )


def _parse_ip6(text: str, qualifier: Result, rest: str) -> Mechanism:
    match = _IP6.fullmatch(rest[1:]) if rest.startswith(":") else None
    if match is None:
        raise SpfSyntaxError("not an IPv6 network")
    prefix = _prefix(match[2], 128)
    network = masked(_address(match[1], 6), prefix, 128)
    return Mechanism(text=text, qualifier=qualifier, kind=Kind.IP6, prefix6=prefix, network=network)


def _address(text: str, version: int) -> int:
    try:
        return int(ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text))
    except ValueError:
        raise SpfSyntaxError(f"not an IPv{version} address") from None


def masked(address: int, prefix: int, bits: int) -> int:
    """The network part of an address: prefix bits of bits."""
    shift = bits - prefix
    return address >> shift << shift


_PARSERS: Final[dict[str, Callable[[str, Result, str], Mechanism]]] = {
    "all": _parse_all,
    "include": _required_domain(Kind.INCLUDE),
    "exists": _required_domain(Kind.EXISTS),
    "a": _with_cidr(Kind.A),
    "mx": _with_cidr(Kind.MX),
    "ptr": _parse_ptr,
    "ip4": _parse_ip4,
    "ip6": _parse_ip6,
}
