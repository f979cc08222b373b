"""A resolver fed from a dict: ``{name: {"TXT": (b"...",), "A": ("192.0.2.1",)}}``.

A name that is absent, and below which nothing stands, is NXDOMAIN; a type given as
TROUBLE raises DnsTemporaryError. Questions are counted, so that limits can be shown.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from respool.lookups.dns import Answer, DnsTemporaryError, MailExchanger, TlsaRecord

TROUBLE: Final = "trouble"

Zone = Mapping[str, Mapping[str, Sequence[Any] | str]]


class FakeResolver:
    def __init__(self, zone: Zone | None = None) -> None:
        self.zone = {name.lower().rstrip("."): types for name, types in (zone or {}).items()}
        self.asked: list[tuple[str, str]] = []

    def _answer(self, name: str, rdtype: str) -> Answer[Any]:
        name = name.lower().rstrip(".")
        self.asked.append((name, rdtype))
        labels = name.split(".")
        if not name.isascii() or len(name) > 253 or any(not 0 < len(label) < 64 for label in labels):
            return Answer(exists=False)
        seen = {name}
        while True:
            types = self.zone.get(name)
            if types is None:
                exists = any(other.endswith("." + name) for other in self.zone)
                return Answer(exists=exists)
            if types.get(rdtype) == TROUBLE or (rdtype not in types and "*" in types):
                raise DnsTemporaryError(f"{name} {rdtype}", "timed out")
            if rdtype in types or "CNAME" not in types:
                return Answer(tuple(types.get(rdtype, ())))
            name = str(types["CNAME"][0]).lower()
            if name in seen:
                raise DnsTemporaryError(f"{name} {rdtype}", "CNAME loop")
            seen.add(name)

    def txt(self, name: str, *, deadline: float | None = None) -> Answer[bytes]:
        return self._answer(name, "TXT")

    def addresses(self, name: str, version: int, *, deadline: float | None = None) -> Answer[str]:
        return self._answer(name, "A" if version == 4 else "AAAA")

    def mail_exchangers(self, name: str, *, deadline: float | None = None) -> Answer[MailExchanger]:
        return self._answer(name, "MX")

    def pointers(self, address: str, *, deadline: float | None = None) -> Answer[str]:
        return self._answer(ipaddress.ip_address(address).reverse_pointer, "PTR")

    def tlsa(self, name: str, *, deadline: float | None = None) -> Answer[TlsaRecord]:
        return self._answer(name, "TLSA")
