"""What holds for the readers of DNS data: answers off the wire, master files, public suffixes, TLSA records.

Each law asks a second implementation (dnspython, ``cryptography``, the algorithm of
publicsuffix.org written down without a thought of speed) and wants the same answer
wherever both have one.

Diagnostics: AssertionError where a law is broken; any other exception is a finding, too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import struct
from typing import Any, Final

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.zonefile
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import load_der_x509_certificate

from respool.errors import ConfigError
from respool.lookups import dns_wire
from respool.lookups.dane import why_unusable
from respool.lookups.dns import DnsTemporaryError, MailExchanger, TlsaRecord
from respool.lookups.dns_wire import RecordType
from respool.lookups.organisational_domain import PublicSuffixList
from respool.lookups.zone import ZoneResolver

_ASKED: Final = (
    RecordType.TXT, RecordType.A, RecordType.AAAA, RecordType.MX, RecordType.PTR, RecordType.TLSA, RecordType.CNAME,
)  # fmt: skip
_NAME: Final = "a.example.org"
_QUESTION: Final = dns_wire.name_to_wire(_NAME) or b""
_DATA: Final = {
    RecordType.TXT: b"\x02ab\x02cd", RecordType.A: b"\xc0\0\x02\x01", RecordType.AAAA: bytes(15) + b"\1",
    RecordType.MX: b"\0\x0a\xc0\x0c", RecordType.PTR: b"\x01C\xc0\x0e", RecordType.TLSA: b"\3\1\1" + bytes(32),
    RecordType.CNAME: b"\x01b\xc0\x0e",
}  # fmt: skip


def _record(owner: bytes, kind: RecordType, ttl: int) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(_DATA[kind])) + _DATA[kind]


#: Whole records of the name that is asked for and of the one its alias leads to; pointers, beginnings, and data.
DNS_TOKENS: Final = (
    *(_record(b"\xc0\x0c", kind, 300) for kind in _ASKED),
    *(_record(b"\x01b\xc0\x0e", kind, 40) for kind in _ASKED),
    b"\xc0\x0c", b"\xc0\x0e", b"\x01b\xc0\x0e", b"\x01A\x07eXample\x03ORG\0", b"\0", b"\xc0\x1f", b"\x3f", b"\x40",
    *(b"\xc0\x0c" + struct.pack("!HHI", kind, 1, 300) for kind in _ASKED),
    b"\x01b\xc0\x0e" + struct.pack("!HHI", RecordType.CNAME, 1, 60),
    *(b"\x01b\xc0\x0e" + struct.pack("!HHI", kind, 1, 0xFFFFFFFF) for kind in _ASKED[:4]),
    b"\xc0\x0e" + struct.pack("!HHI", RecordType.SOA, 1, 900),
    b"\0\x05\x04v=sp", b"\0\x06\x02ab\x02cd", b"\0\x04\xc0\0\x02\x01", b"\0\x10" + bytes(15) + b"\1",
    b"\0\x04\0\x0a\xc0\x0c", b"\0\x03\0\0\0", b"\0\x02\xc0\x0c", b"\0\x04\x01b\xc0\x0e", b"\0\x23\3\1\1" + bytes(32),
    b"\0\x07\3\0\0\x30\x02\5\0", b"\0\x18\xc0\x0e\xc0\x0c" + bytes(16) + b"\0\0\0\x4d", b"\0\0",
)  # fmt: skip
ZONE_TOKENS: Final = (
    b"a.example.org. ", b"example.org ", b"* ", b"@ ", b"$ORIGIN ", b"$TTL 1h\n", b"IN ", b"300 ", b"1w2d ", b"TXT ", b"A ",
    b"AAAA ", b"MX ", b"PTR ", b"CNAME ", b"TLSA ", b"SOA ", b"\"one\" ", b"two ", b"192.0.2.1\n", b"2001:db8::1\n",
    b"10 mx\n", b"b\n", b"3 1 1 ", b"ab" * 32 + b"\n", b"\\# 4 ", b"c0000201\n", b"( ", b")", b";", b";! fail TXT ",
    b";! secure ", b";! bogus ", b"\n", b"\n ", b"\\.", b"\\300", b"\"", b"\xc3\xbc", b".\n", b"..",
)  # fmt: skip
SUFFIX_TOKENS: Final = (
    b"com\n", b"org\n", b"co.uk\n", b"uk\n", b"*.ck\n", b"!www.ck\n", b"*.b.example\n", b"!c.b.example\n", b"example.com",
    b"a.", b"b.", b"c.b.example", b"www.ck", b"// ", b"\n", b"*.", b"!", b".", b"\xc3\xbc\n", b"xn--tda\n", b"github.io\n",
    b"===BEGIN PRIVATE DOMAINS===\n",
)  # fmt: skip


def dns_reply(data: bytes) -> None:
    """A reply is read as dnspython reads it, or refused; the first bytes choose type, flags and counts."""
    if len(data) < 3:
        return
    kind = _ASKED[data[0] % len(_ASKED)]
    flags = 0x8100 | (data[0] & 0x20) | (0x0200 if data[0] & 0x10 else 0) | (3 if data[0] & 0x40 else 0)
    query = dns_wire.build_query(7, _QUESTION, kind, checking_disabled=False, edns=True)
    head = struct.pack("!HHHHHH", 7, flags, 1, data[1] & 7, data[1] >> 3 & 3, 0)
    wire = head + query[12 : 12 + len(_QUESTION) + 4] + data[2:]
    assert dns_wire.is_reply_to(wire, query, _QUESTION)
    try:
        ours = dns_wire.parse_reply(wire, _QUESTION, kind)
    except dns_wire.MalformedReply:
        theirs = _dnspython_reads(wire)
        assert theirs is None or not theirs[1]  # whoever finds records there finds them here
        return
    if ours.truncated:
        return
    assert ours.ttl is None or 0 <= ours.ttl <= 0x7FFFFFFF
    assert dns.name.from_wire(ours.canonical, 0)[0].to_digestable() == ours.canonical
    for record in ours.records:
        if isinstance(record, TlsaRecord):
            _tlsa(record)
    theirs = _dnspython_reads(wire)
    if theirs is not None and kind is not RecordType.CNAME:
        canonical, values, ttl = theirs
        assert ours.canonical == canonical
        assert {_comparable(record) for record in ours.records} == values
        assert not values or ours.ttl == ttl


def _dnspython_reads(wire: bytes) -> tuple[bytes, set[object], int] | None:
    """Canonical name, values and TTL; None where dnspython finds the reply unusable."""
    try:
        message = dns.message.from_wire(wire, ignore_trailing=True)
        assert isinstance(message, dns.message.QueryMessage)
        chain = message.resolve_chaining()
        answer: Any = chain.answer
        return (
            chain.canonical_name.to_digestable(),
            {_value_of(rdata) for rdata in answer or ()},
            min(answer.ttl if answer else 0, chain.minimum_ttl),
        )
    except (dns.exception.DNSException, ValueError):
        return None


def _value_of(rdata: Any) -> object:
    match rdata.rdtype:
        case dns.rdatatype.TXT:
            return b"".join(rdata.strings)
        case dns.rdatatype.A | dns.rdatatype.AAAA:
            return ipaddress.ip_address(rdata.address)
        case dns.rdatatype.MX:
            return rdata.preference, rdata.exchange.to_digestable()
        case dns.rdatatype.TLSA:
            return rdata.usage, rdata.selector, rdata.mtype, rdata.cert
        case _:
            return rdata.target.to_digestable()


def _comparable(record: object) -> object:
    """One of our values in the shape of _value_of()."""
    match record:
        case bytes():
            return record
        case MailExchanger():
            return record.preference, _digestable(record.host)
        case TlsaRecord():
            return record.usage, record.selector, record.matching, record.data
        case str():
            with contextlib.suppress(ValueError):
                return ipaddress.ip_address(record)
            return _digestable(record)
        case _:
            raise TypeError(record)


def _digestable(name: str) -> bytes:
    return dns.name.from_text(name + ".").to_digestable()


def _tlsa(record: TlsaRecord) -> None:
    """What OpenSSL can load is never called unusable."""
    complaint = why_unusable(record)
    if record.usage in {2, 3} and record.selector in {0, 1} and record.matching == 0:
        load = load_der_public_key if record.selector else load_der_x509_certificate
        try:
            load(record.data)
        except (ValueError, UnsupportedAlgorithm):
            return
        assert not complaint


def zone(data: bytes) -> None:
    """A master file is refused with one error, or read as dnspython does; answers are those that the wire would give."""
    text = data.decode("utf-8", "replace")
    try:
        found = ZoneResolver.from_text(text)
    except ConfigError as error:
        assert error.reason
        return
    for name, sets in found._records.items():
        for kind in _ASKED:
            _answers_as_the_wire_does(found, name, sets, kind)
    if "$GENERATE" in text.upper():
        return  # which dnspython expands and the zone refuses
    try:
        theirs = dns.zonefile.read_rrsets(text, default_ttl=0, origin=dns.name.root)
    except (dns.exception.DNSException, ValueError):
        return
    ours = {(name, kind): set(rows) for name, sets in found._records.items() for kind, rows in sets.items()}
    expected: dict[tuple[bytes, int], set[bytes]] = {}
    for rrset in theirs:
        rows = expected.setdefault((rrset.name.to_digestable(), int(rrset.rdtype)), set())
        rows.update(bytes(rdata.to_digestable()) for rdata in rrset)
    assert expected.keys() == ours.keys()
    for key, rows in expected.items():
        # Of an alias given twice dnspython keeps the last alone.
        assert rows <= ours[key] if dns.rdatatype.is_singleton(dns.rdatatype.RdataType(key[1])) else rows == ours[key]


def _answers_as_the_wire_does(
    resolver: ZoneResolver, name: bytes, sets: dict[int, list[bytes]], kind: RecordType
) -> None:
    try:
        answer: Any = resolver._ask(dns.name.from_wire(name, 0)[0].to_text(), kind, None)
    except DnsTemporaryError:
        return
    rows = sets.get(kind)
    if rows is None or name == b"\0":
        return
    wire = struct.pack("!HHHHHH", 7, 0x8180, 1, len(rows), 0, 0) + name + struct.pack("!HH", kind, 1)
    for row in rows:
        wire += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 300, len(row)) + row
    text = dns_wire.name_to_text(name)
    if any(byte not in b"abcdefghijklmnopqrstuvwxyz0123456789-_." for byte in text.encode()):
        return  # an escape is no name that anybody may ask for
    assert sorted(map(repr, dns_wire.parse_reply(wire, name, kind).records)) == sorted(map(repr, answer.records))


def public_suffixes(data: bytes) -> None:
    """The first line is a name, the rest are rules: the suffix is that of the algorithm that the list's owners describe."""
    name, *rules = data.decode("utf-8", "replace").split("\n")
    suffixes = PublicSuffixList.from_lines(rules)
    suffix, domain = suffixes.public_suffix(name), suffixes.organisational_domain(name)
    assert domain == suffix or domain.endswith("." + suffix)
    plain = name.removesuffix(".").lower()
    if len(domain) > 253 or ".." in f".{plain}.":
        return  # no DNS name
    assert suffixes.organisational_domain(domain) == domain
    if not plain.isascii():
        return
    words = [rule.split()[0].lower() for rule in rules if rule.strip() and not rule.startswith("//")]
    words = [word for word in words if not word.startswith("!") or "." in word]
    if any(
        not word.isascii() or "*" in word.removeprefix("*.") or ".." in f".{word}." or "!*" in word for word in words
    ):
        return  # rules that the list's format does not know
    assert suffix == _suffix_by_definition(plain, words)


def _suffix_by_definition(name: str, rules: list[str]) -> str:
    """https://github.com/publicsuffix/list/wiki/Format, section "Formal Algorithm"."""
    labels = name.split(".")

    def matches(rule: str) -> bool:
        wanted = rule.removeprefix("!").split(".")
        tail = labels[-len(wanted) :]
        return len(tail) == len(wanted) and all(one in {"*", other} for one, other in zip(wanted, tail, strict=True))

    matching = [rule for rule in rules if matches(rule)]
    exceptions = [rule for rule in matching if rule.startswith("!")]
    if exceptions:
        longest = max(exceptions, key=lambda rule: rule.count("."))
        return ".".join(labels[-longest.count(".") :])
    prevailing = max(matching, key=lambda rule: rule.count("."), default="*")
    return ".".join(labels[-prevailing.count(".") - 1 :])
