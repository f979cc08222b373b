"""``route``: where each recipient's mail goes, by LMDB tables.

The first table in the configured order that knows a recipient (or the sender, or the
client's address) decides. What its value says becomes ``acl_m_route`` for Exim's
manualroute, a queue, other recipients, or a verdict (route_value.py). Recipients of whom
different things are said get a message each group, since Exim's variables belong to a message.

Diagnostics: the constructor raises ConfigError for a table that can't be read and a bad
default; process() raises TemporaryError for a table in trouble and for a value outside the
grammar: the message waits until the table is mended.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..errors import ConfigError, TemporaryError
from ..spool.envelope import Recipient
from ..spool.message import Message, unique_form
from .api import Context, Part, Phase, Processor, ProcessorConfig, Verdict, defer, discard, freeze, hold, proceed, split
from .authentication.client import client_address
from .conditions import domain_of
from .edits import AddRecipient, Edit, RedirectRecipient, RemoveRecipient, set_queue, set_variable
from .named_table import NamedTable
from .route_value import RouteValue, parse_route_value

KeyKind = Literal["address", "domain", "sender", "sender_domain", "host"]

_NOTHING = RouteValue()

_parsed = lru_cache(maxsize=1024)(parse_route_value)
"""Tables say the same of many keys."""


class RouteTable(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table and what it is asked with."""

    by: Annotated[
        KeyKind,
        Meta(description="The key: recipient's address or domain, sender's address or domain, client's IP address."),
    ]
    table: Annotated[str, Meta(description='Where it is looked up, such as "partial-lmdb;/etc/respool/routes.mdb".')]


class RouteConfig(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    tables: Annotated[
        tuple[RouteTable, ...],
        Meta(description="Asked in this order; the first that has the key decides.", min_length=1),
    ]
    default: Annotated[
        str | None, Meta(description="The value for a recipient whom no table knows; unset: nothing is done.")
    ] = None
    variable: Annotated[str, Meta(description="ACL variable that gets the hosts.")] = "acl_m_route"


class Route(Processor[RouteConfig]):
    """Route by tables."""

    phase = Phase.MODIFY

    def __init__(self, config: RouteConfig) -> None:
        super().__init__(config)
        self._tables = [
            (item.by, NamedTable.parse(item.table, key=f"config.tables[{index}].table"))
            for index, item in enumerate(config.tables)
        ]
        try:
            self._default = _NOTHING if config.default is None else parse_route_value(config.default.encode())
        except ConfigError as error:
            raise ConfigError(error.reason, key="config.default") from error
        try:
            set_variable(config.variable, b"")
        except ValueError as error:
            raise ConfigError(str(error), key="config.variable") from error

    def process(self, message: Message, context: Context) -> Verdict:
        """Look every undelivered recipient up, and divide the message where the answers differ."""
        values = self._values(message, pass_over_holds=context.released)
        for verb, verdict in (("defer", defer), ("hold", hold)):
            # Both are about the whole message: no part of it may go on.
            for address, value in values.items():
                if value.verb == verb:
                    return verdict(value.reason or f"the routing table says so for {_shown(address)}")
        dropped = [address for address, value in values.items() if value.verb == "discard"]
        if dropped and len(dropped) == len(values):
            return discard(values[dropped[0]].reason or "the routing table says so")
        removals = [RemoveRecipient(address) for address in dropped]
        groups = _groups({address: value for address, value in values.items() if value.verb != "discard"})
        if len(groups) > 1:
            # The discarded stay with the first part, which therefore removes them.
            parts = [self._part(group, removals if number == 0 else []) for number, group in enumerate(groups)]
            return split(*parts, reason="recipients with different routes")
        if not groups:
            return proceed()
        part = self._part(groups[0], removals)
        return freeze(part.frozen, *part.edits) if part.frozen else proceed(*part.edits)

    def _values(self, message: Message, *, pass_over_holds: bool) -> dict[bytes, RouteValue]:
        """What the tables say of each undelivered recipient; passing holds over, as if they were not in them."""
        host = client_address(message).encode()
        sender = message.sender.lower()
        found: dict[tuple[int, bytes], RouteValue | None] = {}
        values: dict[bytes, RouteValue] = {}
        for recipient in message.undelivered:
            address = recipient.address
            keys: dict[str, bytes] = {
                "address": address.lower(),
                "domain": domain_of(address),
                "sender": sender,
                "sender_domain": domain_of(sender),
                "host": host,
            }
            values[address] = _NOTHING if pass_over_holds and self._default.verb == "hold" else self._default
            for number, (kind, _) in enumerate(self._tables):
                place = (number, keys[kind])
                if place not in found:
                    found[place] = self._ask(number, keys[kind], pass_over_holds=pass_over_holds)
                value = found[place]
                if value is not None:
                    values[address] = value
                    break
        return values

    def _ask(self, number: int, key: bytes, *, pass_over_holds: bool) -> RouteValue | None:
        table = self._tables[number][1]
        for match in table.find_all(key) if key else ():
            try:
                value = _parsed(match.value)
            except ConfigError as error:
                raise TemporaryError(f"{table.reference}: key {_shown(match.key)}: {error.reason}") from error
            if not (pass_over_holds and value.verb == "hold"):
                return value
        return None

    def _part(self, group: dict[bytes, RouteValue], removals: Iterable[Edit]) -> Part:
        value = next(iter(group.values()))
        edits: list[Edit] = []
        if value.route is not None:
            edits.append(set_variable(self.config.variable, value.route))
        edits += [set_variable(name, content) for name, content in value.variables]
        if value.queue is not None:
            edits.append(set_queue(value.queue))
        for address, its_value in group.items():
            edits += _redirections(address, its_value)
        reason = (value.reason or "the routing table says so") if value.verb == "freeze" else ""
        return Part(tuple(group), (*removals, *edits), reason)


def _redirections(address: bytes, value: RouteValue) -> list[Edit]:
    if not _moves(address, value):
        return []
    new = value.redirected(address)
    others = [other for other in new if unique_form(other) != unique_form(address)]
    edits: list[Edit] = []
    if len(others) == len(new):
        edits.append(RedirectRecipient(address, others.pop(0)))
    return edits + [AddRecipient(Recipient.make(other)) for other in others]


def _moves(address: bytes, value: RouteValue) -> bool:
    return [unique_form(new) for new in value.redirected(address)] != [unique_form(address)]


def _groups(values: dict[bytes, RouteValue]) -> list[dict[bytes, RouteValue]]:
    """The recipients by what is done with their message.

    Redirections are by address, one after the other: whoever is redirected to somebody
    who is redirected, too, goes alone, else the second would get hold of the first.
    """
    moved = {address for address, value in values.items() if _moves(address, value)}
    groups: dict[object, dict[bytes, RouteValue]] = {}
    for address, value in values.items():
        collides = any(new in moved and new != address for new in value.redirected(address))
        key = (value.route, value.queue, value.variables, value.verb, value.reason, address if collides else b"")
        groups.setdefault(key, {})[address] = value
    return list(groups.values())


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
