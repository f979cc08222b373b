"""What a routing table says of a recipient: the values of ``route``'s tables.

    mx1.example.org:mx2.example.org            hosts for Exim's manualroute, into acl_m_route
    route=192.0.2.7::2525; queue=slow          the same, and the queue to requeue into
    to=*@new.example.org                       redirect; "*" keeps the local part
    to=a@example.org, b@example.org            several recipients in the place of one
    acl_m_transport=bulk                       any ACL variable
    hold=asked for by legal                    a verdict with its reason

Items are parted by ``;``; the first may stand without ``route=``. Verdicts are
``discard``, ``defer``, ``hold`` and ``freeze``: at most one, and beside the first three
nothing else makes sense and nothing else is taken. docs/processors/route.md is the
grammar in full.

Diagnostics: parse_route_value() raises ConfigError for a value outside the grammar and
nothing else; complaint() says the same as a text, for ``table build``.
"""

from __future__ import annotations

import difflib
import re
from typing import Final, Literal

from msgspec import Struct

from ..errors import ConfigError
from .authentication.domain_names import a_label_domain
from .edits import set_queue

Verb = Literal["", "discard", "defer", "hold", "freeze"]

MAXIMUM_SIZE: Final = 4096
MAXIMUM_RECIPIENTS: Final = 100

_ITEM: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"acl_m(?:[0-9]|_)[A-Za-z0-9_]*")
_VERBS: Final[tuple[Verb, ...]] = ("discard", "defer", "hold", "freeze")
_KNOWN: Final = ("route", "queue", "to", *_VERBS)
_DOT_ATOM: Final = re.compile(
    r"[!#$%&'*+/=?^_`{|}~0-9A-Za-z\x80-\U0010ffff-]+(?:\.[!#$%&'*+/=?^_`{|}~0-9A-Za-z\x80-\U0010ffff-]+)*"
)
_QUOTED: Final = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*"')


class RouteValue(Struct, frozen=True, kw_only=True):
    """A value taken apart. None and empty: nothing said.

    to are addresses, with ``*`` as local part where the recipient's own is kept; verb is
    a verdict, reason what it says.
    """

    route: bytes | None = None
    queue: str | None = None
    to: tuple[bytes, ...] = ()
    variables: tuple[tuple[str, bytes], ...] = ()
    verb: Verb = ""
    reason: str = ""

    def redirected(self, address: bytes) -> tuple[bytes, ...]:
        """The addresses in the place of address; itself where the value redirects nothing."""
        local = address.rpartition(b"@")[0]
        return tuple(local + new[1:] if new.startswith(b"*@") else new for new in self.to) or (address,)


def complaint(key: bytes, value: bytes) -> str:
    """Why value is none that ``route`` understands, or the empty string; a check for table_build.build()."""
    del key
    try:
        parse_route_value(value)
    except ConfigError as error:
        return error.reason
    return ""


def parse_route_value(value: bytes) -> RouteValue:
    """Take a value apart. Raises ConfigError."""
    if len(value) > MAXIMUM_SIZE:
        raise ConfigError(f"a routing value of {len(value)} bytes; {MAXIMUM_SIZE} are the most")
    try:
        text = value.decode().strip()
    except UnicodeDecodeError:
        raise ConfigError("a routing value that is not UTF-8") from None
    if not text.isprintable():
        raise ConfigError("a routing value with control characters")
    if not text:
        raise ConfigError("an empty routing value: nothing to do")
    found: dict[str, str] = {}
    for number, item in enumerate(text.split(";")):
        match = _ITEM.fullmatch(item)
        if match is not None:
            name, content = match[1], match[2].strip()
        elif number == 0:
            name, content = "route", item.strip()
        elif not item.strip():
            continue
        else:
            raise ConfigError(f'"{item.strip()}": expected name=value; known are {", ".join(_KNOWN)}, acl_m_...')
        if name in found:
            raise ConfigError(f"{name} stands twice")
        found[name] = content
    return _checked(found)


def _checked(found: dict[str, str]) -> RouteValue:
    for name, content in found.items():
        if name not in _KNOWN and _VARIABLE.fullmatch(name) is None:
            near = difflib.get_close_matches(name, _KNOWN, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(_KNOWN)}, acl_m_..."
            raise ConfigError(f'there is no "{name}"; {hint}')
        if not content and name not in {"queue", *_VERBS} and name in _KNOWN:
            raise ConfigError(f"{name} without a value")
    verbs: list[Verb] = [name for name in _VERBS if name in found]
    if len(verbs) > 1 or (verbs and verbs[0] != "freeze" and len(found) > 1):
        raise ConfigError(f"{verbs[0]} together with {', '.join(name for name in found if name != verbs[0])}")
    verb: Verb = ""
    for name in _VERBS:
        if name in found:
            verb = name
    return RouteValue(
        route=found["route"].encode() if "route" in found else None,
        queue=_queue(found["queue"]) if "queue" in found else None,
        to=_addresses(found["to"]) if "to" in found else (),
        variables=tuple((name, content.encode()) for name, content in found.items() if name not in _KNOWN),
        verb=verb,
        reason=found.get(verb, ""),
    )


def _queue(name: str) -> str:
    try:
        return set_queue(name).queue
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _addresses(text: str) -> tuple[bytes, ...]:
    addresses = tuple(dict.fromkeys(_address(item.strip()) for item in _at_commas(text)))
    if len(addresses) > MAXIMUM_RECIPIENTS:
        raise ConfigError(f"to names {len(addresses)} recipients; {MAXIMUM_RECIPIENTS} are the most")
    return addresses


def _at_commas(text: str) -> list[str]:
    """The text in pieces, commas within quotes left alone."""
    pieces: list[str] = []
    start = position = 0
    while position < len(text):
        if text[position] == '"' and (quoted := _QUOTED.match(text, position)) is not None:
            position = quoted.end()
            continue
        if text[position] == ",":
            pieces.append(text[start:position])
            start = position + 1
        position += 1
    return [*pieces, text[start:]]


def _address(text: str) -> bytes:
    local, _, domain = text.rpartition("@")
    name = a_label_domain(domain)
    if name is None or not (_DOT_ATOM.fullmatch(local) or _QUOTED.fullmatch(local)) or len(local.encode()) > 64:
        raise ConfigError(f'"{text}" is no address to redirect to')
    return f"{local}@{name}".encode()
