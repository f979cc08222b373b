"""The resolver fed from a master file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from respool.errors import ConfigError
from respool.lookups.dns import Answer, DnssecStatus, DnsTemporaryError, MailExchanger, TlsaRecord
from respool.lookups.zone import ZoneResolver

ZONE = r"""
; two domains, no SOA, no TTL
example.com    TXT "v=spf1 -all"
$TTL 1h
$ORIGIN example.org.
@       IN MX 10 Mail
        3600 IN MX 5 mx2.example.net.
        MX 10 Mail.example.org.
mail    A 192.0.2.1
        AAAA 2001:DB8::1
www     CNAME mail
far     CNAME nowhere.example.net.
loop    CNAME pool
pool    IN 300 CNAME loop
*.w     300 TXT "a" "b;c" ( "d"
            "e" )
a.b.c   TXT x
x.w     A 192.0.2.9
_25._tcp.mail TLSA 3 1 1 (
        0000000000000000000000000000000000000000000000000000000000000000 )
_26._tcp.mail TLSA \# 4 030101aa
_27._tcp.mail TLSA \# 2 0301
$ORIGIN .
1.2.0.192.in-addr.arpa PTR Mail.Example.org.
8.b.d.0.1.0.0.2.ip6.arpa TXT half
;! fail TXT _dmarc.example.org
;! fail * dead.example.org
;! secure example.org
;! bogus broken.example.org
"""


@pytest.fixture(scope="module")
def zone() -> ZoneResolver:
    return ZoneResolver.from_text(ZONE)


def test_records(zone: ZoneResolver) -> None:
    assert zone.txt("example.com").records == (b"v=spf1 -all",)
    assert zone.mail_exchangers("EXAMPLE.org.").records == (
        MailExchanger(5, "mx2.example.net"),
        MailExchanger(10, "mail.example.org"),
    )
    assert zone.addresses("mail.example.org", 4).records == ("192.0.2.1",)
    assert zone.addresses("mail.example.org", 6).records == ("2001:db8::1",)
    assert zone.pointers("192.0.2.1").records == ("mail.example.org",)
    assert zone.pointers("not an address") == Answer(exists=False)
    assert zone.tlsa("_25._tcp.mail.example.org").records == (TlsaRecord(3, 1, 1, bytes(32)),)
    assert zone.tlsa("_26._tcp.mail.example.org").records == (TlsaRecord(3, 1, 1, b"\xaa"),)


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("nope.example.org", False),
        ("example.net", False),
        ("x.a.b.c.example.org", False),
        ("b.c.example.org", True),  # an empty non-terminal
        ("org", True),
        ("mail.example.org", True),  # has other types
        ("far.example.org", False),  # an alias to nowhere
        ("a..b", False),
        ("x" * 70 + ".org", False),
        ("b.d.0.1.0.0.2.ip6.arpa", True),
    ],
)
def test_absence(zone: ZoneResolver, name: str, exists: bool) -> None:
    found = zone.txt(name)
    assert (found.records, found.exists) == ((), exists)


def test_wildcards(zone: ZoneResolver) -> None:
    assert zone.txt("q.w.example.org").records == (b"ab;cde",)
    assert zone.txt("p.q.w.example.org").records == (b"ab;cde",)
    # RFC 4592 section 2.2.1: a name that exists is not covered, nor is what lies below it
    assert zone.txt("x.w.example.org").records == ()
    assert zone.txt("y.x.w.example.org") == Answer(exists=False, dnssec=DnssecStatus.SECURE)
    assert zone.txt("w.example.org").exists


def test_aliases(zone: ZoneResolver) -> None:
    found = zone.addresses("www.example.org", 4)
    assert (found.records, found.canonical) == (("192.0.2.1",), "mail.example.org")
    with pytest.raises(DnsTemporaryError, match="circle"):
        zone.txt("loop.example.org")


def test_faults(zone: ZoneResolver) -> None:
    with pytest.raises(DnsTemporaryError, match="_DMARC"):
        zone.txt("_DMARC.example.org.")
    assert zone.addresses("_dmarc.example.org", 4).exists is False
    for ask in (zone.txt, zone.mail_exchangers, zone.tlsa):
        with pytest.raises(DnsTemporaryError):
            ask("dead.example.org")
    with pytest.raises(DnsTemporaryError, match="malformed"):
        zone.tlsa("_27._tcp.mail.example.org")
    with pytest.raises(DnsTemporaryError, match="deadline"):
        zone.txt("example.com", deadline=time.monotonic())
    other = ZoneResolver.from_text("example.org TXT x", fail=["TXT example.org"])
    with pytest.raises(DnsTemporaryError):
        other.txt("example.org")


def test_dnssec_status(zone: ZoneResolver) -> None:
    assert zone.txt("example.com").dnssec is DnssecStatus.INDETERMINATE
    assert zone.addresses("mail.example.org", 4).dnssec is DnssecStatus.SECURE
    assert zone.txt("nope.example.org").dnssec is DnssecStatus.SECURE
    assert zone.addresses("far.example.org", 4).dnssec is DnssecStatus.INDETERMINATE
    assert zone.tlsa("_25._tcp.broken.example.org").dnssec is DnssecStatus.BOGUS
    with pytest.raises(DnsTemporaryError, match="bogus"):
        zone.txt("broken.example.org")
    other = ZoneResolver.from_text("a.b TXT x", dnssec={"b": DnssecStatus.SECURE}, default=DnssecStatus.INSECURE)
    assert (other.txt("a.b").dnssec, other.txt("c").dnssec) == (DnssecStatus.SECURE, DnssecStatus.INSECURE)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a.b TXT x\nc.d NOTYPE x", 2),
        ("a.b A 192.0.2", 1),
        ("a.b TXT", 1),
        ("\n\na.b MX mail", 3),
        ("a..b TXT x", 1),
        ('a.b TXT "unterminated', 1),
        (f"{'x' * 64}.b TXT x", 1),
        ("a.b TLSA \\# 5 0301", 1),
        ("a.b TLSA \\# 1 zz", 1),
        ("x A 192.0.2.1\n;! fial TXT x", 2),
        (";! fail NOTYPE x", 1),
        (";! secure a..b", 1),
    ],
)
def test_errors_name_the_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as caught:
        ZoneResolver.from_text(text, file="test.zone")
    assert caught.value.file == f"test.zone:{line}"


def test_from_file(tmp_path: Path) -> None:
    path = tmp_path / "zone"
    path.write_text("example.org TXT x\n")
    assert ZoneResolver.from_file(str(path)).txt("example.org").records == (b"x",)
    with pytest.raises(ConfigError, match="No such file"):
        ZoneResolver.from_file(str(tmp_path / "none"))
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        ZoneResolver.from_file(str(path))


def test_empty_zone_knows_nothing() -> None:
    assert ZoneResolver.from_text("").txt("example.org") == Answer(exists=False)
