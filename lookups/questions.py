"""The questions of a Resolver, as one: what asks the network and what reads a zone differ only in how it is answered.

Diagnostics: those of _ask(), which raises DnsTemporaryError and nothing else.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from .dns import Answer, MailExchanger
from .dns_wire import RecordType


class Questions:
    """Every question of the Resolver protocol but TLSA, by way of _ask()."""

    def _ask(self, name: str, record_type: RecordType, deadline: float | None) -> Answer[Any]:
        raise NotImplementedError

    def txt(self, name: str, *, deadline: float | None = None) -> Answer[bytes]:
        """TXT records, the strings of each joined."""
        return self._ask(name, RecordType.TXT, deadline)

    def addresses(self, name: str, version: int, *, deadline: float | None = None) -> Answer[str]:
        """A records for version 4, AAAA for 6, in canonical text."""
        return self._ask(name, RecordType.A if version == 4 else RecordType.AAAA, deadline)

    def mail_exchangers(self, name: str, *, deadline: float | None = None) -> Answer[MailExchanger]:
        """MX records by ascending preference."""
        return self._ask(name, RecordType.MX, deadline)

    def pointers(self, address: str, *, deadline: float | None = None) -> Answer[str]:
        """PTR names of an IP address, in lower case without the final dot; none for what is no address."""
        try:
            name = ipaddress.ip_address(address).reverse_pointer
        except ValueError:
            return Answer(exists=False)
        return self._ask(name, RecordType.PTR, deadline)
