"""Lists of domains, addresses and hosts as configurations write them, tables included.

Any item may match. Exact names are found by one hash lookup, ``*.domain`` by one for each
label, however long the list is. Case never matters, in local parts neither (as in Exim's
address lists); tables are asked with keys in lower case, as ``respool table build`` and
Exim's own lists have them.

Diagnostics: the constructors raise ConfigError for an item that could never match, and
for a table that can't be read; match() raises TableError (a TemporaryError: the message is
deferred) and nothing else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from ..errors import ConfigError
from .authentication.domain_names import a_label_domain
from .named_table import NamedTable, is_table

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST_NAME: Final = 255
_LITERAL: Final = re.compile(r"\[[0-9A-Fa-f:.]{2,45}\]|\[IPv6:[0-9A-Fa-f:.]{2,45}\]", re.IGNORECASE)


def _split_tables(items: Iterable[str], key: str) -> tuple[list[str], tuple[NamedTable, ...]]:
    names: list[str] = []
    tables: list[NamedTable] = []
    for item in items:
        if is_table(item):
            tables.append(NamedTable.parse(item, key=key))
        else:
            names.append(item)
    if not names and not tables:
        raise ConfigError("an empty list never matches", key=key)
    return names, tuple(tables)


class DomainPatterns:
    """``domain``, ``*.domain`` (all below it, not itself), ``*`` (any but none), ``""`` (none), tables.

    An internationalised domain is found as it was written and in A-labels.
    """

    def __init__(self, items: Iterable[str], *, key: str = "") -> None:
        names, self._tables = _split_tables(items, key)
        self._exact: set[bytes] = set()
        self._below: set[bytes] = set()
        self._any = False
        for name in names:
            if name == "*":
                self._any = True
            elif name == "":
                self._exact.add(b"")
            elif name.startswith("*."):
                self._below.update(_spellings(name[2:], name, key))
            else:
                self._exact.update(_spellings(name, name, key))

    def match(self, domain: bytes) -> bool:
        """True if any item matches domain, which is in lower case. Raises TableError."""
        if domain in self._exact or (self._any and domain):
            return True
        if self._below and len(domain) <= _LONGEST_NAME:
            _, dot, parent = domain.partition(b".")
            while dot:
                if parent in self._below:
                    return True
                _, dot, parent = parent.partition(b".")
        return bool(domain) and any(table.find(domain) is not None for table in self._tables)


class AddressPatterns:
    """``user@domain``, ``user@*.domain``, ``*@domain``, a bare domain pattern, ``""`` (null sender), tables."""

    def __init__(self, items: Iterable[str], *, key: str = "") -> None:
        names, self._tables = _split_tables(items, key)
        self._exact: set[bytes] = set()
        domains: list[str] = []
        with_local_part: dict[bytes, list[str]] = {}
        for name in names:
            local, at, domain = name.rpartition("@")
            if not name:
                self._exact.add(b"")
            elif not at or local in {"", "*"}:
                domains.append(domain)
            elif "*" in local and not local.startswith('"'):
                raise ConfigError(f'"{name}": a "*" may only stand for a whole local part', key=key)
            elif domain == "*" or domain.startswith("*."):
                with_local_part.setdefault(local.lower().encode(), []).append(domain)
            else:
                lower = local.lower().encode()
                self._exact.update(lower + b"@" + spelling for spelling in _spellings(domain, name, key))
        if "" in domains:
            raise ConfigError('"@" matches no address', key=key)
        self._domains = DomainPatterns(domains, key=key) if domains else None
        self._with_local_part = {local: DomainPatterns(found, key=key) for local, found in with_local_part.items()}

    def match(self, address: bytes) -> bool:
        """True if any item matches address, in any case. Raises TableError."""
        lower = address.lower()
        if lower in self._exact:
            return True
        local, at, domain = lower.rpartition(b"@")
        if at and self._domains is not None and self._domains.match(domain):
            return True
        if at and (patterns := self._with_local_part.get(local)) is not None and patterns.match(domain):
            return True
        return bool(lower) and any(table.find(lower) is not None for table in self._tables)


class HostPatterns:
    """Addresses, networks, ``""`` for local submission, tables keyed by the address in canonical text."""

    def __init__(self, items: Iterable[str], *, key: str = "") -> None:
        names, self._tables = _split_tables(items, key)
        self._local = "" in names
        self._any = "*" in names
        self._networks: list[_Network] = []
        for name in names:
            if name in {"", "*"}:
                continue
            try:
                self._networks.append(ipaddress.ip_network(name))
            except ValueError as error:
                raise ConfigError(str(error), key=key) from error

    def match(self, address: str) -> bool:
        """True if any item matches address, canonical text or empty. Raises TableError."""
        if not address:
            return self._local
        if self._any:
            return True
        parsed = ipaddress.ip_address(address)
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        if any(parsed in network for network in self._networks):
            return True
        return any(table.find(str(parsed).encode()) is not None for table in self._tables)


def _spellings(domain: str, item: str, key: str) -> set[bytes]:
    """The domain in lower case as written, and in A-labels."""
    lower = domain.lower()
    if _LITERAL.fullmatch(domain):
        return {lower.encode()}
    a_labels = a_label_domain(domain)
    if a_labels is None:
        raise ConfigError(f'"{item}" is no domain, "*.domain" or table', key=key)
    return {lower.removesuffix(".").encode(), a_labels.encode()}
