"""What a DNS answer is, and the one interface through which DNS is asked.

Three outcomes are told apart: an Answer with records, an Answer without (NXDOMAIN or
no data), and DnsTemporaryError for everything else. DNS trouble is therefore never
mistaken for absence.

Diagnostics: resolvers raise DnsTemporaryError and nothing else.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from ..errors import TemporaryError

Record = TypeVar("Record")


class DnssecStatus(Enum):
    """RFC 4033 section 5: the four states of an answer; AD counts only over a trusted path."""

    SECURE = "secure"
    INSECURE = "insecure"
    BOGUS = "bogus"
    INDETERMINATE = "indeterminate"


class DnsTemporaryError(TemporaryError):
    """No answer that can be relied on: timeout, SERVFAIL, a malformed reply, the deadline.

    question is what was asked (``_dmarc.example.org TXT``), detail what went wrong.
    """

    def __init__(self, question: str, reason: str) -> None:
        self.question, self.detail = question, reason
        super().__init__(f"DNS: {question}: {reason}")


class Answer(Struct, Generic[Record], frozen=True):
    """Records of one name and type; records is empty for NXDOMAIN and for no data.

    exists is False only for NXDOMAIN (RFC 8020: nothing below the name either).
    canonical is the name at the end of an alias (CNAME), empty where the name is none.
    """

    records: tuple[Record, ...] = ()
    exists: bool = True
    dnssec: DnssecStatus = DnssecStatus.INDETERMINATE
    canonical: str = ""


class MailExchanger(Struct, frozen=True):
    """One MX record; host in lower case without the final dot, empty for a null MX (RFC 7505)."""

    preference: int
    host: str


class TlsaRecord(Struct, frozen=True):
    """One TLSA record (RFC 6698 section 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes


class Resolver(Protocol):
    """Asks DNS. Names are str, absolute with or without the final dot, in any case.

    A name that can't be a DNS name (a label over 63 bytes, over 253 in all, empty
    labels, bytes outside ASCII) does not exist: the answer is NXDOMAIN and nothing is
    asked. deadline is a time.monotonic() value; past it DnsTemporaryError is raised.
    Every method raises DnsTemporaryError and nothing else.
    """

    def txt(self, name: str, *, deadline: float | None = None) -> Answer[bytes]:
        """TXT records, the strings of each joined."""
        ...

    def addresses(self, name: str, version: int, *, deadline: float | None = None) -> Answer[str]:
        """A records for version 4, AAAA for 6, in canonical text."""
        ...

    def mail_exchangers(self, name: str, *, deadline: float | None = None) -> Answer[MailExchanger]:
        """MX records by ascending preference."""
        ...

    def pointers(self, address: str, *, deadline: float | None = None) -> Answer[str]:
        """PTR names of an IP address, in lower case without the final dot."""
        ...

    def tlsa(self, name: str, *, deadline: float | None = None) -> Answer[TlsaRecord]:
        """TLSA records of ``_port._tcp.host``."""
        ...
