"""A Resolver fed from a master file: for tests, for ``--zone FILE``, for use offline.

The file may hold any number of domains, needs neither SOA nor NS nor TTLs, and takes
relative names as relative to the root: ``example.org`` is ``example.org.``. What it
lacks is NXDOMAIN; a name that has other types, or names below it, has no data. Wildcards
work as in RFC 4592, aliases are followed.

Trouble and DNSSEC status are written as comments that other readers pass over:

    ;! fail TXT _dmarc.example.org    this question gets DnsTemporaryError (* for any type)
    ;! secure example.org             this name and all below it; likewise insecure,
    ;! bogus broken.example.org       indeterminate; the longest name wins

Bogus names answer TLSA questions with that status and raise for all others, as a
validating resolver does.

Diagnostics: from_text and from_file raise ConfigError, which names file and line, for a
master file that can't be read; the methods raise DnsTemporaryError and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.ttl

from ..errors import ConfigError
from . import dns_wire
from .dns import Answer, DnssecStatus, DnsTemporaryError, TlsaRecord
from .dns_wire import RecordType
from .questions import Questions

_MAXIMUM_ALIASES = 16
_ANY_TYPE = "*"
_STATUSES = frozenset(status.value for status in DnssecStatus)

Records = dict[bytes, dict[int, list[bytes]]]
"""By name in wire form, by type: the data in wire form."""


class ZoneResolver(Questions):
    """Answers from memory. Made by from_text or from_file; safe for threads, never changes.

    fail holds questions that get DnsTemporaryError, as ``TXT name`` or ``* name``; dnssec
    is the status of names and all below them, default where there is none.
    """

    def __init__(
        self,
        records: Records,
        *,
        fail: Iterable[str] = (),
        dnssec: Mapping[str, DnssecStatus] | None = None,
        default: DnssecStatus = DnssecStatus.INDETERMINATE,
    ) -> None:
        self._records = records
        self._failing = frozenset(map(_failing_question, fail))
        self._dnssec = {_wire(name): status for name, status in (dnssec or {}).items()}
        self._default = default
        self._existing = {b"\0"}
        for name in records:
            ancestor = name
            while ancestor not in self._existing:
                self._existing.add(ancestor)
                ancestor = _parent(ancestor)

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        file: str = "zone",
        fail: Iterable[str] = (),
        dnssec: Mapping[str, DnssecStatus] | None = None,
        default: DnssecStatus = DnssecStatus.INDETERMINATE,
    ) -> ZoneResolver:
        """Read a master file; fail and dnssec add to what stands in it. Raises ConfigError."""
        failing, statuses = _read_notes(text, file)
        return cls(
            _read_records(text, file),
            fail=[*failing, *fail],
            dnssec={**statuses, **(dnssec or {})},
            default=default,
        )

    @classmethod
    def from_file(cls, path: str, *, fail: Iterable[str] = ()) -> ZoneResolver:
        """Read a master file from disk (UTF-8). Raises ConfigError."""
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(reason or str(error), file=path) from error
        return cls.from_text(text, file=path, fail=fail)

    def tlsa(self, name: str, *, deadline: float | None = None) -> Answer[TlsaRecord]:
        """TLSA records of ``_port._tcp.host``; without any and status BOGUS where the zone says so."""
        return self._ask(name, RecordType.TLSA, deadline)

    def _ask(self, name: str, record_type: RecordType, deadline: float | None) -> Answer[Any]:
        question = f"{name} {record_type.name}"
        wire = dns_wire.name_to_wire(name)
        if wire is None:
            return Answer(exists=False)
        if deadline is not None and time.monotonic() >= deadline:
            raise DnsTemporaryError(question, "the deadline passed")
        status = DnssecStatus.SECURE
        canonical = wire
        for _ in range(_MAXIMUM_ALIASES):
            if (record_type.name, canonical) in self._failing or (_ANY_TYPE, canonical) in self._failing:
                raise DnsTemporaryError(question, "SERVFAIL, as the zone says")
            status = dns_wire.weaker(status, self._status(canonical))
            if status is DnssecStatus.BOGUS:
                if record_type is RecordType.TLSA:
                    return Answer(dnssec=status)
                raise DnsTemporaryError(question, "bogus, as the zone says")
            sets = self._sets(canonical)
            try:
                if sets is not None and record_type not in sets and RecordType.CNAME in sets:
                    canonical = dns_wire.name_in(sets[RecordType.CNAME][0])
                    continue
                records = _decoded(record_type, sets or {})
            except (dns_wire.MalformedReply, IndexError, ValueError) as error:
                raise DnsTemporaryError(question, f"malformed data: {error}") from error
            alias = "" if canonical == wire else dns_wire.name_to_text(canonical)
            return Answer(records, exists=sets is not None, dnssec=status, canonical=alias)
        raise DnsTemporaryError(question, "an alias that leads in a circle, or too far")

    def _sets(self, name: bytes) -> dict[int, list[bytes]] | None:
        """Return the record sets of a name, perhaps by a wildcard; None for NXDOMAIN."""
        if name in self._existing:
            return self._records.get(name, {})
        encloser = _parent(name)
        while encloser not in self._existing:
            encloser = _parent(encloser)
        return self._records.get(b"\1*" + encloser)  # RFC 4592 section 3.3.1

    def _status(self, name: bytes) -> DnssecStatus:
        while True:
            status = self._dnssec.get(name)
            if status is not None:
                return status
            if name == b"\0":
                return self._default
            name = _parent(name)


def _decoded(record_type: RecordType, sets: dict[int, list[bytes]]) -> tuple[Any, ...]:
    records = [dns_wire.decode_data(data, record_type, 0, len(data)) for data in sets.get(record_type, ())]
    if record_type is RecordType.MX:
        records.sort(key=dns_wire.mail_exchanger_order)
    return tuple(records)


def _parent(name: bytes) -> bytes:
    return name[1 + name[0] :]


def _wire(name: str) -> bytes:
    wire = b"\0" if name == "." else dns_wire.name_to_wire(name)
    if wire is None:
        raise ConfigError(f"{name!r} is not a DNS name")
    return wire


def _failing_question(text: str) -> tuple[str, bytes]:
    record_type, _, name = text.partition(" ")
    record_type = record_type.upper()
    if record_type != _ANY_TYPE and record_type not in RecordType.__members__:
        raise ConfigError(f"{text!r}: expected a record type or * and a name")
    return record_type, _wire(name.strip())


def _read_notes(text: str, file: str) -> tuple[list[str], dict[str, DnssecStatus]]:
    """Return the lines ``;! …``: failing questions, and statuses by name."""
    failing: list[str] = []
    statuses: dict[str, DnssecStatus] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.startswith(";!"):
            continue
        words = line[2:].split()
        try:
            if len(words) == 3 and words[0] == "fail":
                _failing_question(f"{words[1]} {words[2]}")
                failing.append(f"{words[1]} {words[2]}")
                continue
            if len(words) == 2 and words[0] in _STATUSES:
                _wire(words[1])
                statuses[words[1]] = DnssecStatus(words[0])
                continue
        except ConfigError as error:
            raise ConfigError(error.reason, file=f"{file}:{number}") from error
        raise ConfigError("expected ;! fail TYPE name, or ;! secure|insecure|bogus name", file=f"{file}:{number}")
    return failing, statuses


def _read_records(text: str, file: str) -> Records:
    # dnspython's own zone reader wants a single origin and refuses what tests need (an alias
    # beside other data); its tokenizer and its data types are what it takes.
    records: Records = {}
    tokenizer = dns.tokenizer.Tokenizer(text, file)
    origin = owner = dns.name.root
    try:
        while True:
            token = tokenizer.get(want_leading=True)
            if token.is_eof():
                return records
            if token.is_eol():
                continue
            if token.is_whitespace():
                token = tokenizer.get()
                if token.is_eol_or_eof():
                    continue
                tokenizer.unget(token)
            elif token.value.upper() == "$ORIGIN":
                origin = tokenizer.get_name(origin)
                tokenizer.get_eol()
                continue
            elif token.value.upper() == "$TTL":
                tokenizer.get_ttl()
                tokenizer.get_eol()
                continue
            else:
                owner = tokenizer.as_name(token, origin)
            record_type = _read_type(tokenizer)
            data = _read_data(tokenizer, record_type, origin)
            rows = records.setdefault(owner.to_digestable(), {}).setdefault(int(record_type), [])
            if data not in rows:  # RFC 2181 section 5: a set has no duplicates
                rows.append(data)
    except (dns.exception.DNSException, ValueError) as error:
        raise ConfigError(str(error), file="{}:{}".format(*tokenizer.where())) from error


def _read_type(tokenizer: dns.tokenizer.Tokenizer) -> dns.rdatatype.RdataType:
    """Read ``[TTL] [class] type`` in either order (RFC 1035 section 5.1); TTLs mean nothing here."""
    while True:
        word = tokenizer.get_identifier()
        if word[:1].isdigit():
            dns.ttl.from_text(word)
        elif word.upper() != "IN":
            return dns.rdatatype.from_text(word)


def _read_data(
    tokenizer: dns.tokenizer.Tokenizer, record_type: dns.rdatatype.RdataType, origin: dns.name.Name
) -> bytes:
    token = tokenizer.get()
    tokenizer.unget(token)
    if token.is_identifier() and token.value == r"\#":  # RFC 3597 section 5: taken as it is, malformed or not
        tokenizer.get()
        size = tokenizer.get_int()
        raw = bytes.fromhex(tokenizer.concatenate_remaining_identifiers(allow_empty=True))
        if len(raw) != size:
            raise ValueError("the data have another length than they say")
        return raw
    data = dns.rdata.from_text(dns.rdataclass.IN, record_type, tokenizer, origin, relativize=False)
    return bytes(data.to_digestable())
